// Package bench measures vhost-user-fs back-ends: it starts them, drives them through
// package frontend with the requests that a Linux guest would send, and reports
// operations a second, the daemon's processor time per operation, latencies and
// notifications.
//
//	Target    one back-end: how to start it or where it listens
//	Workload  what is asked of it; see Workloads
//	Run       all workloads on all targets, interleaved round by round
//	Report    what came out, as a table, JSON, benchstat's format or a picture
//
// Two targets are never measured at the same time, and always in turn, because the
// speed of a shared machine drifts. A ratio is the median of the ratios of
// neighbouring rounds.
package bench
