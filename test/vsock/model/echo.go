package main

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// echo asks a program of the host over vsock, on several connections at the same time, and prints how many answers came
// in a second: what the transport alone can do. The program answers each question of the one length with as much
// as the other.
func echo(args []string) error {
	var n [6]int
	if len(args) != len(n) {
		return fmt.Errorf("want CID PORT QUESTION ANSWER CONNECTIONS SECONDS, not %q", args)
	}
	for i, s := range args {
		var err error
		if n[i], err = strconv.Atoi(s); err != nil {
			return err
		}
	}
	var all sync.WaitGroup
	counts, failures := make([]int, n[4]), make([]error, n[4])
	began := time.Now()
	for i := range counts {
		all.Go(func() {
			counts[i], failures[i] = ask(&unix.SockaddrVM{CID: uint32(n[0]), Port: uint32(n[1])}, n[2], n[3], time.Duration(n[5])*time.Second)
		})
	}
	all.Wait()
	total := 0
	for i, err := range failures {
		if err != nil {
			return err
		}
		total += counts[i]
	}
	fmt.Printf("%.0f\n", float64(total)/time.Since(began).Seconds())
	return nil
}

// ask is one connection.
func ask(to unix.Sockaddr, question, answer int, length time.Duration) (count int, err error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, to); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	b := make([]byte, max(question, answer))
	for began := time.Now(); time.Since(began) < length; count++ {
		if _, err := unix.Write(fd, b[:question]); err != nil {
			return 0, err
		}
		for got := 0; got < answer; {
			n, err := unix.Read(fd, b[:answer-got])
			if err != nil || n == 0 {
				return 0, fmt.Errorf("%d bytes of an answer, %w", n, err)
			}
			got += n
		}
	}
	return count, nil
}
