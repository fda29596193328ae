/*
 * A second load generator for vhost-user-fs back-ends, to check "govirtiofs bench"
 * against. It shares no code with it: plain C, poll and read on the call eventfd,
 * direct descriptors instead of indirect tables.
 *
 *   cc -O2 -o loadgen test/bench/loadgen/loadgen.c
 *   ./loadgen SOCKET getattr|lookup|read DEPTH SECONDS NAME [PID...]
 *
 * NAME is a file in the root of the share; with a %d in it, 1,000 files, the numbers
 * 0 to 999. A read is 4 KiB at random in the first of them, which must be that large.
 * It prints requests per second, microseconds of CPU per request of the PIDs (the
 * listening process and its children if none is given) and of itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define GUEST 0x100000000ull /* guest address of the memory */
#define USER 0x200000000ull  /* the front-end's address of it, as told */
#define QSIZE 128
#define PER_SLOT 4		 /* descriptors of a request */
#define SLOTS (QSIZE / PER_SLOT) /* most requests at a time */
#define SLOT_BYTES 16384	 /* request, reply, data */
#define RING_BYTES 8192
#define MEM_BYTES (2 * RING_BYTES + SLOTS * SLOT_BYTES)
#define READ_SIZE 4096

static void die(const char *what)
{
	fprintf(stderr, "loadgen: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
	exit(1);
}

/* The vhost-user protocol, as far as it is needed. */
enum {
	GET_FEATURES = 1,
	SET_FEATURES = 2,
	SET_OWNER = 3,
	SET_MEM_TABLE = 5,
	SET_VRING_NUM = 8,
	SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10,
	SET_VRING_KICK = 12,
	SET_VRING_CALL = 13,
	GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16,
	SET_VRING_ENABLE = 18,
};
#define F_EVENT_IDX (1ull << 29)
#define F_PROTOCOL (1ull << 30)
#define F_VERSION_1 (1ull << 32)

struct message {
	uint32_t request, flags, size;
	union {
		uint64_t u64;
		struct {
			uint32_t index, num;
		} state;
		struct {
			uint32_t index, flags;
			uint64_t desc, used, avail, log;
		} addr;
		struct {
			uint32_t n, pad;
			uint64_t guest, size, user, offset;
		} table;
	} p;
} __attribute__((packed));

static int sock, event_idx;

static void send_message(struct message *m, uint32_t request, uint32_t size, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { m, 12 + size };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };

	m->request = request;
	m->flags = 1;
	m->size = size;
	if (fd >= 0) {
		h.msg_control = control;
		h.msg_controllen = sizeof(control);
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	if (sendmsg(sock, &h, 0) != (ssize_t)(12 + size))
		die("send to the back-end");
}

static void set_u64(uint32_t request, uint64_t v, int fd)
{
	struct message m = { .p.u64 = v };
	send_message(&m, request, 8, fd);
}

static void set_state(uint32_t request, uint32_t index, uint32_t num)
{
	struct message m = { .p.state = { index, num } };
	send_message(&m, request, 8, -1);
}

static uint64_t get_u64(uint32_t request)
{
	struct message m;
	send_message(&m, request, 0, -1);
	if (recv(sock, &m, 20, MSG_WAITALL) != 20 || m.request != request)
		die("answer of the back-end");
	return m.p.u64;
}

/* A queue, and the memory that all of them share. */
static char *mem;
static int memfd;

struct queue {
	int offset, kick, call;
	struct vring v;
	uint16_t avail, kicked, used;
	uint64_t kicks, calls;
};

static void start_queue(struct queue *q, int index)
{
	q->offset = index * RING_BYTES;
	vring_init(&q->v, QSIZE, mem + q->offset, 4096);
	q->kick = eventfd(0, EFD_CLOEXEC);
	q->call = eventfd(0, EFD_CLOEXEC);
	set_state(SET_VRING_NUM, index, QSIZE);
	set_state(SET_VRING_BASE, index, 0);
	uint64_t at = USER + q->offset;
	struct message m = { .p.addr = { .index = index,
					 .desc = at,
					 .avail = at + ((char *)q->v.avail - (char *)q->v.desc),
					 .used = at + ((char *)q->v.used - (char *)q->v.desc) } };
	send_message(&m, SET_VRING_ADDR, sizeof(m.p.addr), -1);
	set_u64(SET_VRING_CALL, index, q->call);
	set_u64(SET_VRING_KICK, index, q->kick);
	set_state(SET_VRING_ENABLE, index, 1);
}

static void connect_device(const char *path, struct queue *q)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(sock, (struct sockaddr *)&a, sizeof(a)))
		die(path);
	memfd = memfd_create("guest", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, MEM_BYTES))
		die("memfd");
	mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (mem == MAP_FAILED)
		die("mmap");
	memset(mem, 0, MEM_BYTES);
	uint64_t f = get_u64(GET_FEATURES) & (F_EVENT_IDX | F_PROTOCOL | F_VERSION_1);
	event_idx = !!(f & F_EVENT_IDX);
	get_u64(GET_PROTOCOL_FEATURES);
	set_u64(SET_PROTOCOL_FEATURES, 0, -1);
	struct message own, m = { .p.table = { 1, 0, GUEST, MEM_BYTES, USER, 0 } };
	send_message(&own, SET_OWNER, 0, -1);
	set_u64(SET_FEATURES, f, -1);
	send_message(&m, SET_MEM_TABLE, sizeof(m.p.table), memfd);
	start_queue(&q[0], 0);
	start_queue(&q[1], 1);
	get_u64(GET_FEATURES); /* all of it is done */
}

/* Requests. A slot has its request at 0, its reply at 4096, its data at 8192. */
static char *slot(int i)
{
	return mem + 2 * RING_BYTES + i * SLOT_BYTES;
}

static void describe(struct queue *q, int i, int k, int off, int len, int flags)
{
	q->v.desc[i * PER_SLOT + k] = (struct vring_desc){ .addr = GUEST + (slot(i) - mem) + off,
							   .len = len,
							   .flags = flags,
							   .next = i * PER_SLOT + k + 1 };
}

/* build makes a request with two or three descriptors. */
static void build(struct queue *q, int i, int op, uint64_t node, const void *body, int len, int reply, int data)
{
	struct fuse_in_header h = { .len = sizeof(h) + len, .opcode = op, .nodeid = node, .pid = 1 };
	memcpy(slot(i), &h, sizeof(h));
	memcpy(slot(i) + sizeof(h), body, len);
	describe(q, i, 0, 0, h.len, VRING_DESC_F_NEXT);
	describe(q, i, 1, 4096, sizeof(struct fuse_out_header) + reply, VRING_DESC_F_WRITE | (data ? VRING_DESC_F_NEXT : 0));
	if (data)
		describe(q, i, 2, 8192, data, VRING_DESC_F_WRITE);
}

static uint64_t unique;

static void offer(struct queue *q, int i)
{
	((struct fuse_in_header *)slot(i))->unique = unique += 2;
	q->v.avail->ring[q->avail++ % QSIZE] = i * PER_SLOT;
	__atomic_store_n(&q->v.avail->idx, q->avail, __ATOMIC_RELEASE);
}

static void notify(struct queue *q)
{
	uint64_t one = 1;
	uint16_t old = q->kicked;

	q->kicked = q->avail;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (event_idx ? !vring_need_event(vring_avail_event(&q->v), q->avail, old) : q->v.used->flags & VRING_USED_F_NO_NOTIFY)
		return;
	q->kicks++;
	if (write(q->kick, &one, 8) != 8)
		die("kick");
}

/* wait_used sleeps until something is finished. */
static void wait_used(struct queue *q)
{
	for (;;) {
		if (event_idx)
			vring_used_event(&q->v) = q->used;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&q->v.used->idx, __ATOMIC_ACQUIRE) != q->used)
			return;
		struct pollfd p[2] = { { q->call, POLLIN, 0 }, { sock, POLLRDHUP, 0 } };
		uint64_t n;
		if (poll(p, 2, 10000) == 0)
			die("no answer in 10 s");
		if (p[1].revents)
			die("the back-end has gone");
		if (read(q->call, &n, 8) == 8)
			q->calls++;
	}
}

static int finished(struct queue *q)
{
	if (__atomic_load_n(&q->v.used->idx, __ATOMIC_ACQUIRE) == q->used)
		return -1;
	struct vring_used_elem *e = &q->v.used->ring[q->used++ % QSIZE];
	int i = e->id / PER_SLOT;
	struct fuse_out_header *h = (void *)(slot(i) + 4096);
	if (h->error || h->unique != ((struct fuse_in_header *)slot(i))->unique || h->len != e->len) {
		errno = -h->error;
		die("reply");
	}
	return i;
}

/* once sends the request in slot 0 and waits. */
static void *once(struct queue *q)
{
	offer(q, 0);
	notify(q);
	wait_used(q);
	return slot(finished(q)) + 4096 + sizeof(struct fuse_out_header);
}

/* What is asked for. */
static const char *op;
static int nfiles;
static char names[1000][64];
static uint64_t nodes[1000], handle, blocks, turn;

/* find looks the files up and opens the first. */
static void find(struct queue *q, const char *pattern)
{
	nfiles = strchr(pattern, '%') ? 1000 : 1;
	for (int i = 0; i < nfiles; i++) {
		snprintf(names[i], sizeof(names[i]), pattern, i);
		build(q, 0, FUSE_LOOKUP, 1, names[i], strlen(names[i]) + 1, sizeof(struct fuse_entry_out), 0);
		struct fuse_entry_out *e = once(q);
		nodes[i] = e->nodeid;
		if (i == 0)
			blocks = e->attr.size / READ_SIZE;
	}
	struct fuse_open_in open_in = { .flags = O_RDONLY };
	build(q, 0, FUSE_OPEN, nodes[0], &open_in, sizeof(open_in), sizeof(struct fuse_open_out), 0);
	handle = ((struct fuse_open_out *)once(q))->fh;
	if (op[0] == 'r' && blocks == 0) {
		fprintf(stderr, "loadgen: %s is less than 4 KiB\n", names[0]);
		exit(1);
	}
}

/* next makes the next request in a slot. */
static void next(struct queue *q, int i)
{
	struct fuse_getattr_in attr_in = { 0 };
	struct fuse_read_in read_in = { .fh = handle, .size = READ_SIZE };
	int k = ++turn % nfiles;

	switch (op[0]) {
	case 'g':
		build(q, i, FUSE_GETATTR, nodes[k], &attr_in, sizeof(attr_in), sizeof(struct fuse_attr_out), 0);
		break;
	case 'l':
		build(q, i, FUSE_LOOKUP, 1, names[k], strlen(names[k]) + 1, sizeof(struct fuse_entry_out), 0);
		break;
	case 'r': /* a multiplicative hash of the turn scatters the reads */
		read_in.offset = (turn * 0x9e3779b97f4a7c15ull >> 20) % blocks * READ_SIZE;
		build(q, i, FUSE_READ, nodes[0], &read_in, sizeof(read_in), 0, READ_SIZE);
	}
	offer(q, i);
}

/* CPU time. */
static int pids[256], npids;

static void add_family(int pid)
{
	char path[64];
	int child;

	if (npids == 256)
		return;
	pids[npids++] = pid;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	FILE *f = fopen(path, "r");
	while (f && fscanf(f, "%d", &child) == 1)
		add_family(child);
	if (f)
		fclose(f);
}

static double clock_us(clockid_t id)
{
	struct timespec t;
	if (clock_gettime(id, &t))
		die("clock");
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static double daemon_us(void)
{
	double sum = 0;
	for (int i = 0; i < npids; i++) {
		clockid_t id;
		if (clock_getcpuclockid(pids[i], &id))
			die("clock of the back-end");
		sum += clock_us(id);
	}
	return sum;
}

int main(int argc, char **argv)
{
	static struct queue q[2];

	op = argc > 2 ? argv[2] : "";
	if (argc < 6 || (strcmp(op, "getattr") && strcmp(op, "lookup") && strcmp(op, "read"))) {
		fprintf(stderr, "usage: loadgen SOCKET getattr|lookup|read DEPTH SECONDS NAME [PID...]\n");
		return 2;
	}
	int depth = atoi(argv[3]);
	double seconds = atof(argv[4]);
	if (depth < 1 || depth > SLOTS || seconds <= 0) {
		fprintf(stderr, "loadgen: depth is 1 to %d, and time passes\n", SLOTS);
		return 2;
	}
	connect_device(argv[1], q);
	struct ucred c;
	socklen_t len = sizeof(c);
	if (argc == 6 && !getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &c, &len))
		add_family(c.pid);
	for (int i = 6; i < argc; i++)
		pids[npids++] = atoi(argv[i]);

	struct fuse_init_in init = { .major = 7, .minor = 38, .flags = FUSE_MAX_PAGES | FUSE_BIG_WRITES, .max_readahead = 131072 };
	build(&q[1], 0, FUSE_INIT, 0, &init, 16, sizeof(struct fuse_init_out), 0);
	once(&q[1]);
	find(&q[1], argv[5]);

	for (int i = 0; i < depth; i++)
		next(&q[1], i);
	uint64_t done = 0, kicks = q[1].kicks, calls = q[1].calls;
	double start = clock_us(CLOCK_MONOTONIC), end = start + seconds * 1e6, now = start;
	double cpu = daemon_us(), own = clock_us(CLOCK_THREAD_CPUTIME_ID);
	int under_way = depth;
	notify(&q[1]);
	while (under_way > 0) {
		for (int i; (i = finished(&q[1])) >= 0; done++) {
			if (now < end)
				next(&q[1], i);
			else
				under_way--;
		}
		notify(&q[1]);
		if (under_way > 0)
			wait_used(&q[1]);
		now = clock_us(CLOCK_MONOTONIC);
	}
	cpu = daemon_us() - cpu;
	own = clock_us(CLOCK_THREAD_CPUTIME_ID) - own;
	printf("%s depth=%d requests/s=%.0f cpu_us=%.2f driver_us=%.2f kicks=%.2f calls=%.2f\n", op, depth, done / ((now - start) / 1e6),
	       cpu / done, own / done, (double)(q[1].kicks - kicks) / done, (double)(q[1].calls - calls) / done);
	return 0;
}
