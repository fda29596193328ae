// Package ticks tells cheaply whether some time has gone by. It reads a counter of the processor, which takes
// a third of the time that the clock of the process takes, or less.
//
// The counter is only good for "not longer ago than": a thread that moves to another processor may find another
// value there. A difference of two values, without a sign, is then mostly very large. So who uses it looks at a
// real clock if the difference is large.
package ticks
