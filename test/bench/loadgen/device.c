#define _GNU_SOURCE
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define GUEST 0x100000000ull /* guest address of the memory */
#define USER 0x200000000ull  /* the front-end's address of it, as told */
#define PER_SLOT 4	     /* descriptors in the ring of a request that has no table */
#define RING_BYTES 8192

/* A slot's small parts. */
#define REPLY_AT 2048
#define TABLE_AT 4096
#define META_BYTES 12288
#define DATA_STRIDE (DATA_MAX + 4096ul) /* else all slots' data share a few sets of the caches */
#define TABLE_MAX ((META_BYTES - TABLE_AT) / 16)

struct queue queues[MAX_QUEUES + 1];
struct setup setup = { .queues = 1 };
int depth_max, peer;

static int sock, event_idx;
static char *mem;

void die(const char *what)
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
#define F_INDIRECT (1ull << 28)
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

static void watch(struct queue *q)
{
	struct epoll_event call = { .events = EPOLLIN }, gone = { .events = EPOLLRDHUP, .data.u32 = 1 };
	q->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_ctl(q->epoll, EPOLL_CTL_ADD, q->call, &call) || epoll_ctl(q->epoll, EPOLL_CTL_ADD, sock, &gone))
		die("epoll");
}

static size_t queue_bytes(void)
{
	return RING_BYTES + depth_max * (META_BYTES + DATA_STRIDE);
}

static void start_queue(int index)
{
	struct queue *q = &queues[index];
	size_t offset = index * queue_bytes();

	q->index = index;
	vring_init(&q->v, QSIZE, mem + offset, 4096);
	for (int i = 0; i < depth_max; i++) {
		q->slots[i].q = q;
		q->slots[i].index = i;
		q->slots[i].meta = mem + offset + RING_BYTES + i * META_BYTES;
		q->slots[i].data = mem + offset + RING_BYTES + depth_max * META_BYTES + i * DATA_STRIDE;
	}
	q->kick = eventfd(0, EFD_CLOEXEC);
	q->call = eventfd(0, EFD_CLOEXEC);
	watch(q);
	set_state(SET_VRING_NUM, index, QSIZE);
	set_state(SET_VRING_BASE, index, 0);
	uint64_t at = USER + offset;
	struct message m = { .p.addr = { .index = index,
					 .desc = at,
					 .avail = at + ((char *)q->v.avail - (char *)q->v.desc),
					 .used = at + ((char *)q->v.used - (char *)q->v.desc) } };
	send_message(&m, SET_VRING_ADDR, sizeof(m.p.addr), -1);
	set_u64(SET_VRING_CALL, index, q->call);
	set_u64(SET_VRING_KICK, index, q->kick);
	set_state(SET_VRING_ENABLE, index, 1);
}

void connect_device(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct ucred c;
	socklen_t len = sizeof(c);

	depth_max = setup.indirect ? QSIZE : QSIZE / PER_SLOT;
	size_t bytes = (setup.queues + 1) * queue_bytes();
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(sock, (struct sockaddr *)&a, sizeof(a)))
		die(path);
	if (!getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &c, &len))
		peer = c.pid;
	int fd = memfd_create("guest", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, bytes))
		die("memfd");
	mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		die("mmap");
	uint64_t want = F_PROTOCOL | F_VERSION_1 | (setup.no_event ? 0 : F_EVENT_IDX) | (setup.indirect ? F_INDIRECT : 0);
	uint64_t f = get_u64(GET_FEATURES) & want;
	if (f != want)
		die("the back-end lacks features");
	event_idx = !setup.no_event;
	get_u64(GET_PROTOCOL_FEATURES);
	set_u64(SET_PROTOCOL_FEATURES, 0, -1);
	struct message own, m = { .p.table = { 1, 0, GUEST, bytes, USER, 0 } };
	send_message(&own, SET_OWNER, 0, -1);
	set_u64(SET_FEATURES, f, -1);
	send_message(&m, SET_MEM_TABLE, sizeof(m.p.table), fd);
	for (int i = 0; i <= setup.queues; i++)
		start_queue(i);
	get_u64(GET_FEATURES); /* all of it is done */
}

/* Chains. */
struct chain {
	struct vring_desc *d;
	int base, n;
};

static void add(struct chain *c, const char *p, uint32_t len, int flags)
{
	if (c->n)
		c->d[c->n - 1].flags |= VRING_DESC_F_NEXT;
	c->d[c->n] = (struct vring_desc){ .addr = GUEST + (p - mem), .len = len, .flags = flags, .next = c->base + c->n + 1 };
	if (++c->n == (setup.indirect ? TABLE_MAX : PER_SLOT) + 1)
		die("a chain is too long");
}

static void add_data(struct chain *c, const char *p, int len, int flags)
{
	for (int n; len > 0; p += n, len -= n) {
		n = setup.page_bufs && len > 4096 ? 4096 : len;
		add(c, p, n, flags);
	}
}

static char *reply_at(struct slot *s)
{
	return s->meta + REPLY_AT;
}

void *reply_body(struct slot *s)
{
	return reply_at(s) + sizeof(struct fuse_out_header);
}

uint32_t reply_length(struct slot *s)
{
	return ((struct fuse_out_header *)reply_at(s))->len - sizeof(struct fuse_out_header);
}

void build(struct slot *s, int op, uint64_t node, const void *body, int len, int reply, int to, int from)
{
	struct fuse_in_header h = { .len = sizeof(h) + len + to, .opcode = op, .nodeid = node, .pid = 1 };
	struct vring *v = &s->q->v;
	struct chain c = { &v->desc[s->index * PER_SLOT], s->index * PER_SLOT, 0 };

	if (setup.indirect)
		c = (struct chain){ (void *)(s->meta + TABLE_AT), 0, 0 };
	memcpy(s->meta, &h, sizeof(h));
	memcpy(s->meta + sizeof(h), body, len);
	add(&c, s->meta, sizeof(h) + len, 0);
	add_data(&c, s->data, to, 0);
	if (reply >= 0)
		add(&c, reply_at(s), sizeof(struct fuse_out_header) + reply, VRING_DESC_F_WRITE);
	add_data(&c, s->data, from, VRING_DESC_F_WRITE);
	if (setup.indirect)
		v->desc[s->index] = (struct vring_desc){ .addr = GUEST + ((char *)c.d - mem), .len = 16 * c.n, .flags = VRING_DESC_F_INDIRECT };
}

/* The ring. */
static void kick(struct queue *q)
{
	uint64_t one = 1;

	q->kicks++;
	q->kicked = q->avail;
	if (write(q->kick, &one, 8) != 8)
		die("kick");
}

void offer(struct queue *q, struct slot *s)
{
	((struct fuse_in_header *)s->meta)->unique = q->unique += 2;
	q->v.avail->ring[q->avail++ % QSIZE] = setup.indirect ? s->index : s->index * PER_SLOT;
	__atomic_store_n(&q->v.avail->idx, q->avail, __ATOMIC_RELEASE);
	if (q->style.always_kick)
		kick(q);
}

void notify(struct queue *q)
{
	uint16_t old = q->kicked;

	q->kicked = q->avail;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (event_idx ? vring_need_event(vring_avail_event(&q->v), q->avail, old) :
			q->avail != old && !(q->v.used->flags & VRING_USED_F_NO_NOTIFY))
		kick(q);
}

static int any(struct queue *q)
{
	return __atomic_load_n(&q->v.used->idx, __ATOMIC_ACQUIRE) != q->used;
}

void ask_for_call(struct queue *q)
{
	if (event_idx)
		vring_used_event(&q->v) = q->used;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* sleep_once returns at a call. A blocking read can't see that the back-end has gone:
 * main has set an alarm. */
static void sleep_once(struct queue *q)
{
	struct pollfd p[2] = { { q->call, POLLIN, 0 }, { sock, POLLRDHUP, 0 } };
	struct epoll_event e[2];
	int n = 1, gone = 0;
	uint64_t count;

	switch (q->style.wait) {
	case WAIT_READ:
		break;
	case WAIT_EPOLL:
		n = epoll_wait(q->epoll, e, 2, 10000);
		gone = n > 0 && (e[0].data.u32 || (n > 1 && e[1].data.u32));
		break;
	default:
		n = poll(p, 2, 10000);
		gone = p[1].revents;
	}
	errno = 0;
	if (n == 0)
		die("no answer in 10 s");
	if (gone)
		die("the back-end has gone");
	if (read(q->call, &count, 8) == 8)
		q->calls++;
	else if (errno == EAGAIN && q->style.wait == WAIT_READ)
		die("the back-end has made the call eventfd non-blocking");
}

static void spin(struct queue *q)
{
	struct pollfd p = { sock, POLLRDHUP, 0 };

	if (!event_idx)
		q->v.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	for (uint32_t n = 1; !any(q); n++) {
		if (n % (1 << 20) == 0 && poll(&p, 1, 0))
			die("the back-end has gone");
#ifdef __x86_64__
		__builtin_ia32_pause();
#endif
	}
}

void wait_used(struct queue *q)
{
	if (q->style.wait == WAIT_SPIN) {
		spin(q);
		return;
	}
	q->v.avail->flags = 0;
	for (ask_for_call(q); !any(q); ask_for_call(q))
		sleep_once(q);
}

struct slot *finished(struct queue *q)
{
	if (!any(q))
		return NULL;
	struct vring_used_elem *e = &q->v.used->ring[q->used++ % QSIZE];
	struct slot *s = &q->slots[setup.indirect ? e->id : e->id / PER_SLOT];
	struct fuse_in_header *in = (void *)s->meta;
	struct fuse_out_header *h = (void *)reply_at(s);
	if (in->opcode == FUSE_FORGET || in->opcode == FUSE_BATCH_FORGET)
		return s;
	if (h->error || h->unique != in->unique || h->len != e->len) {
		char what[64];
		snprintf(what, sizeof(what), "reply to a request of type %u", in->opcode);
		errno = -h->error;
		die(what);
	}
	return s;
}

void *once(struct queue *q)
{
	struct slot *s;

	offer(q, &q->slots[0]);
	notify(q);
	do
		wait_used(q);
	while (!(s = finished(q)));
	return reply_body(s);
}
