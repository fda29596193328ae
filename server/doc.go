// Package server turns FUSE request bytes into calls of a FileSystem and its
// answers into reply bytes. It knows neither virtqueues nor files.
package server
