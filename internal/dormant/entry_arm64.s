#include "go_asm.h"
#include "textflag.h"

// govirtiofs_entry is where the program starts when it was linked with -E: before the Go
// runtime, which it goes on to. With the variable of dormant.go in the environment it
// waits first. At RSP are argc, argv, 0, the environment and 0. A system call, whose number
// is in R8, changes R0 only.
TEXT govirtiofs_entry(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD	$1, R0
	MOVB	R0, ·entered(SB)
	MOVD	0(RSP), R0
	MOVD	RSP, R19
	ADD	R0<<3, R19, R19
	ADD	$16, R19, R19		// environment
	MOVD	$0x4f49545249564f47, R20	// "GOVIRTIO"
	MOVD	$0x4d524f445f445346, R21	// "FSD_DORM"
	MOVD	$0x3d544e41, R22	// "ANT="
next:
	MOVD.P	8(R19), R0
	CBZ	R0, start
	MOVD	R0, R23
	MOVD	$20, R1			// bytes to compare, if the string is that long
length:
	MOVBU	(R23), R2
	CBZ	R2, next
	ADD	$1, R23, R23
	SUB	$1, R1, R1
	CBNZ	R1, length
	MOVD	(R0), R2
	CMP	R20, R2
	BNE	next
	MOVD	8(R0), R2
	CMP	R21, R2
	BNE	next
	MOVWU	16(R0), R2
	CMP	R22, R2
	BNE	next

	// In R23 is the state, whose first byte is for us.
	SUB	$544, RSP, RSP		// two struct pollfd, a timespec, four signalfd_siginfo
	MOVD	$0x6f69747269766f67, R0	// "govirtio"
	MOVD	R0, 0(RSP)
	MOVD	$0x647366, R0		// "fsd"
	MOVD	R0, 8(RSP)
	MOVD	$167, R8		// prctl
	MOVD	$15, R0			// PR_SET_NAME: after a start through /proc it is "exe"
	MOVD	RSP, R1
	SVC	$0
	MOVD	$0, R24			// wait without end
poll:
	MOVD	$0x1000000c8, R0	// signalFD, POLLIN
	MOVD	R0, 0(RSP)
	ADD	$1, R0, R0		// childFD, POLLIN
	MOVD	R0, 8(RSP)
	MOVD	$73, R8			// ppoll, which makes the time shorter by itself
	MOVD	RSP, R0
	MOVD	$2, R1
	MOVD	R24, R2
	MOVD	$0, R3			// the signals that are blocked stay so
	MOVD	$8, R4
	SVC	$0
	CMN	$4, R0			// EINTR
	BEQ	poll
	MOVD	R0, R25

	// The Go runtime lets signals through before it handles them, and SIGTERM ends the
	// process then. So all that have come are taken before it starts.
	MOVD	$63, R8			// read
	MOVD	$200, R0		// signalFD
	ADD	$32, RSP, R1
	MOVD	$512, R2
	SVC	$0
	CMP	$0, R25
	BLE	awake			// the time is over
	MOVHU	14(RSP), R1		// revents
	CBNZ	R1, awake		// the child has ended
	CMP	$0, R0
	BLE	awake
	CBNZ	R24, poll		// not the first

	// Signals often come in pairs, to a process and to its group. The child is told here,
	// and while it ends there is no runtime yet that a second one could end.
	MOVD	$424, R8		// pidfd_send_signal
	MOVD	$201, R0		// childFD
	MOVWU	32(RSP), R1		// ssi_signo
	CMP	$3, R1			// SIGQUIT, at which it prints its stacks
	BEQ	tell
	MOVD	$15, R1			// SIGTERM
tell:
	MOVD	$0, R2
	MOVD	$0, R3
	SVC	$0
	MOVD	$'1', R0
	MOVB	R0, (R23)
	MOVD	$1, R0			// s, after which the runtime has to do something
	MOVD	R0, 16(RSP)
	MOVD	ZR, 24(RSP)
	ADD	$16, RSP, R24
	B	poll
awake:
	// The runtime leaves SIGHUP and SIGINT ignored until it is told to catch them.
	MOVD	$1, R0			// struct sigaction: SIG_IGN, no flags, no mask
	MOVD	R0, 0(RSP)
	MOVD	ZR, 8(RSP)
	MOVD	ZR, 16(RSP)
	MOVD	ZR, 24(RSP)
	MOVD	$const_held, R23
	MOVD	$0, R24
ignore:
	ADD	$1, R24, R24
	AND	$1, R23, R1		// bit 0 is signal 1
	LSR	$1, R23, R23
	CBZ	R1, skip
	MOVD	$134, R8		// rt_sigaction
	MOVD	R24, R0
	MOVD	RSP, R1
	MOVD	$0, R2
	MOVD	$8, R3
	SVC	$0
skip:
	CBNZ	R23, ignore
	ADD	$544, RSP, RSP
start:
	B	govirtiofs_start(SB)

// func handlers() (catch, restorer uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-16
	MOVD	$govirtiofs_catch(SB), R0
	MOVD	R0, catch+0(FP)
	MOVD	$govirtiofs_restore(SB), R0
	MOVD	R0, restorer+8(FP)
	RET

// govirtiofs_catch handles signals that are to be held back: the number is in R0,
// siginfo_t in R1, ucontext_t in R2. It runs on any thread, in the midst of anything, and
// uses nothing of the runtime's. The thread blocks them from then on. One of our own says
// no more than that; others go to the main thread, where they wait.
TEXT govirtiofs_catch(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD	40(R2), R3		// uc_sigmask
	MOVD	$const_held, R4
	ORR	R4, R3, R3
	MOVD	R3, 40(R2)
	MOVD	R0, R2
	MOVD	$172, R8		// getpid
	SVC	$0
	MOVW	8(R1), R3		// si_code
	CMN	$6, R3			// SI_TKILL
	BNE	other
	MOVW	16(R1), R3		// si_pid
	CMP	R0, R3
	BEQ	done
other:
	MOVD	R0, R1			// the main thread's number is the process's
	MOVD	$131, R8		// tgkill
	SVC	$0
done:
	RET

// govirtiofs_restore is where a handler returns to.
TEXT govirtiofs_restore(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD	$139, R8		// rt_sigreturn
	SVC	$0
	UNDEF
