#include "textflag.h"

// govirtiofs_start goes on to the Go runtime, which it tells to start with one processor
// if nothing else is asked for: it makes 16 KiB for each of the machine's, keeps them, and
// first thing sets some of them to work. A variable in front of the others says so, for
// which argc and argv move down. At SP are argc, argv, 0, the environment and 0.
//
// Before that, it turns transparent huge pages off, if they are not; see AllowHugePages.
TEXT govirtiofs_start(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVL	$157, AX		// prctl
	MOVL	$42, DI			// PR_GET_THP_DISABLE
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	SYSCALL
	TESTQ	AX, AX
	JNZ	count
	MOVL	$157, AX
	MOVL	$41, DI			// PR_SET_THP_DISABLE
	MOVL	$1, SI
	SYSCALL
	TESTQ	AX, AX
	JNZ	count
	MOVB	$1, ·small(SB)
count:
	MOVQ	0(SP), AX
	LEAQ	16(SP)(AX*8), BX	// environment
	MOVQ	$0x4f525058414d4f47, R8	// "GOMAXPRO"
next:
	MOVQ	0(BX), SI
	ADDQ	$8, BX
	TESTQ	SI, SI
	JZ	tell
	CMPQ	R8, 0(SI)		// beyond the last string there are 16 bytes at least
	JNE	next
	CMPW	8(SI), $0x5343		// "CS"
	JNE	next
	CMPB	10(SI), $'='
	JNE	next
	JMP	_rt0_amd64_linux(SB)
tell:
	LEAQ	2(AX), CX		// argc, argv and its 0
	MOVQ	SP, SI
	LEAQ	-8(SP), DI
	SUBQ	$8, SP
	CLD
	REP;	MOVSQ
	LEAQ	oneProcessor<>(SB), AX
	MOVQ	AX, 0(DI)		// where the 0 was, before the environment
	MOVB	$1, ·told(SB)
	JMP	_rt0_amd64_linux(SB)

// oneProcessor is GOMAXPROCS=1, with a 0 at its end.
DATA oneProcessor<>+0(SB)/8, $"GOMAXPRO"
DATA oneProcessor<>+8(SB)/8, $"CS=1\x00\x00\x00\x00"
GLOBL oneProcessor<>(SB), RODATA|NOPTR, $16
