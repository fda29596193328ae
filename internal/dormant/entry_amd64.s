#include "go_asm.h"
#include "textflag.h"

// govirtiofs_entry is where the program starts when it was linked with -E: before the Go
// runtime, which it goes on to. With the variable of dormant.go in the environment it
// waits first. At SP are argc, argv, 0, the environment and 0.
TEXT govirtiofs_entry(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVB	$1, ·entered(SB)
	MOVQ	0(SP), AX
	LEAQ	16(SP)(AX*8), BX	// environment
	MOVQ	$0x4f49545249564f47, R8	// "GOVIRTIO"
	MOVQ	$0x4d524f445f445346, R9	// "FSD_DORM"
	MOVL	$0x3d544e41, R12	// "ANT="
next:
	MOVQ	0(BX), SI
	ADDQ	$8, BX
	TESTQ	SI, SI
	JZ	start
	MOVQ	SI, DI
	MOVL	$20, CX			// bytes to compare, if the string is that long
length:
	CMPB	0(DI), $0
	JEQ	next
	INCQ	DI
	DECL	CX
	JNZ	length
	CMPQ	R8, 0(SI)
	JNE	next
	CMPQ	R9, 8(SI)
	JNE	next
	CMPL	R12, 16(SI)
	JNE	next

	SUBQ	$544, SP		// two struct pollfd, a timespec, four signalfd_siginfo
	MOVQ	$0x6f69747269766f67, AX	// "govirtio"
	MOVQ	AX, 0(SP)
	MOVQ	$0x647366, AX		// "fsd"
	MOVQ	AX, 8(SP)
	MOVQ	DI, R12			// the state, whose first byte is for us
	MOVL	$157, AX		// prctl
	MOVL	$15, DI			// PR_SET_NAME: after a start through /proc it is "exe"
	MOVQ	SP, SI
	SYSCALL
	XORL	R13, R13		// wait without end
poll:
	MOVQ	$0x1000000c8, AX	// signalFD, POLLIN
	MOVQ	AX, 0(SP)
	INCQ	AX			// childFD, POLLIN
	MOVQ	AX, 8(SP)
	MOVL	$271, AX		// ppoll, which makes the time shorter by itself
	MOVQ	SP, DI
	MOVL	$2, SI
	MOVQ	R13, DX
	XORL	R10, R10		// the signals that are blocked stay so
	MOVL	$8, R8
	SYSCALL
	CMPQ	AX, $-4			// EINTR
	JEQ	poll
	MOVQ	AX, R14

	// The Go runtime lets signals through before it handles them, and SIGTERM ends the
	// process then. So all that have come are taken before it starts.
	XORL	AX, AX			// read
	MOVL	$200, DI		// signalFD
	LEAQ	32(SP), SI
	MOVL	$512, DX
	SYSCALL
	TESTQ	R14, R14
	JLE	awake			// the time is over
	CMPW	14(SP), $0		// revents
	JNE	awake			// the child has ended
	TESTQ	AX, AX
	JLE	awake
	TESTQ	R13, R13
	JNZ	poll			// not the first

	// Signals often come in pairs, to a process and to its group. The child is told here,
	// and while it ends there is no runtime yet that a second one could end.
	MOVL	$424, AX		// pidfd_send_signal
	MOVL	$201, DI		// childFD
	MOVL	32(SP), SI		// ssi_signo
	CMPL	SI, $3			// SIGQUIT, at which it prints its stacks
	JEQ	tell
	MOVL	$15, SI			// SIGTERM
tell:
	XORL	DX, DX
	XORL	R10, R10
	SYSCALL
	MOVB	$'1', 0(R12)
	MOVQ	$1, 16(SP)		// s, after which the runtime has to do something
	MOVQ	$0, 24(SP)
	LEAQ	16(SP), R13
	JMP	poll
awake:
	// The runtime leaves SIGHUP and SIGINT ignored until it is told to catch them.
	XORL	AX, AX
	MOVQ	$1, 0(SP)		// struct sigaction: SIG_IGN, no flags, no mask
	MOVQ	AX, 8(SP)
	MOVQ	AX, 16(SP)
	MOVQ	AX, 24(SP)
	MOVL	$const_held, R12
	XORL	R13, R13
ignore:
	INCL	R13
	SHRL	$1, R12			// bit 0 is signal 1
	JCC	skip
	MOVL	$13, AX			// rt_sigaction
	MOVL	R13, DI
	MOVQ	SP, SI
	XORL	DX, DX
	MOVL	$8, R10
	SYSCALL
skip:
	TESTL	R12, R12
	JNZ	ignore
	ADDQ	$544, SP
start:
	JMP	govirtiofs_start(SB)

// func handlers() (catch, restorer uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-16
	LEAQ	govirtiofs_catch(SB), AX
	MOVQ	AX, catch+0(FP)
	LEAQ	govirtiofs_restore(SB), AX
	MOVQ	AX, restorer+8(FP)
	RET

// govirtiofs_catch handles signals that are to be held back: the number is in DI,
// siginfo_t in SI, ucontext_t in DX. It runs on any thread, in the midst of anything, and
// uses nothing of the runtime's. The thread blocks them from then on. One of our own says
// no more than that; others go to the main thread, where they wait.
TEXT govirtiofs_catch(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	ORQ	$const_held, 296(DX)	// uc_sigmask
	MOVL	DI, DX
	MOVL	$39, AX			// getpid
	SYSCALL
	CMPL	8(SI), $-6		// si_code: SI_TKILL
	JNE	other
	CMPL	AX, 16(SI)		// si_pid
	JEQ	done
other:
	MOVL	AX, DI
	MOVL	AX, SI			// the main thread's number is the process's
	MOVL	$234, AX		// tgkill
	SYSCALL
done:
	RET

// govirtiofs_restore is where a handler returns to.
TEXT govirtiofs_restore(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL	$15, AX			// rt_sigreturn
	SYSCALL
	INT	$3
