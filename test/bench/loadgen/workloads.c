#define _GNU_SOURCE
#include "workloads.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SMALL 1000
#define LISTED 1000
#define MANY 10000
#define BIG (64 << 20)
#define COLD (256 << 20)
#define LIST_SIZE 32768

static const char *share;

/* Files. */
static void path_of(char *path, const char *dir, int i)
{
	int n = snprintf(path, PATH_MAX, "%s/loadgen/%s", share, dir);
	if (i >= 0)
		snprintf(path + n, PATH_MAX - n, "/file-%06d", i);
}

static void make_file(const char *dir, int i, size_t size)
{
	char path[PATH_MAX];
	static uint64_t data[8192], x = 1;

	path_of(path, dir, i);
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	for (size_t n; size > 0; size -= n) {
		for (int k = 0; k < 8192; k++)
			data[k] = x = x * 6364136223846793005ull + 1442695040888963407ull;
		n = size < sizeof(data) ? size : sizeof(data);
		if (write(fd, data, n) != (ssize_t)n)
			die(path);
	}
	if (fd < 0 || (!strcmp(dir, "cold") && fsync(fd)) || close(fd))
		die(path);
}

void make_files(const char *dir)
{
	static const struct {
		const char *dir;
		int n;
		size_t size;
	} dirs[] = { { "small", SMALL, 4096 }, { "list", LISTED, 0 }, { "many", MANY, 0 },
		     { "sync", MAX_QUEUES * QSIZE, 0 }, { "tmp", 0, 0 }, { "big", -1, BIG }, { "cold", -1, COLD } };
	char path[PATH_MAX];

	share = dir;
	path_of(path, "ready", -1);
	if (!access(path, F_OK))
		return;
	path_of(path, "", -1);
	if (mkdir(path, 0755) && errno != EEXIST)
		die(path);
	for (size_t k = 0; k < sizeof(dirs) / sizeof(*dirs); k++) {
		path_of(path, dirs[k].dir, -1);
		if (dirs[k].n < 0)
			make_file(dirs[k].dir, -1, dirs[k].size);
		else if (mkdir(path, 0755) && errno != EEXIST)
			die(path);
		for (int i = 0; i < dirs[k].n; i++)
			make_file(dirs[k].dir, i, dirs[k].size);
	}
	make_file("ready", -1, 0);
}

/* Nodes, looked up once. */
static uint64_t top, small[SMALL], small_dir, list_dir, many_dir, tmp_dir, sync_dir, big, big_fh, cold, cold_fh;
static uint64_t list_fh[MAX_QUEUES * QSIZE], sync_node[MAX_QUEUES * QSIZE], sync_fh[MAX_QUEUES * QSIZE];

static uint64_t find(uint64_t dir, const char *name)
{
	build(&queues[1].slots[0], FUSE_LOOKUP, dir, name, strlen(name) + 1, sizeof(struct fuse_entry_out), 0, 0);
	return ((struct fuse_entry_out *)once(&queues[1]))->nodeid;
}

static uint64_t find_number(uint64_t dir, int i)
{
	char name[32];
	snprintf(name, sizeof(name), "file-%06d", i);
	return find(dir, name);
}

static uint64_t open_node(uint64_t node, int op, int flags)
{
	struct fuse_open_in in = { .flags = flags };
	build(&queues[1].slots[0], op, node, &in, sizeof(in), sizeof(struct fuse_open_out), 0, 0);
	return ((struct fuse_open_out *)once(&queues[1]))->fh;
}

void start_filesystem(void)
{
	struct fuse_init_in in = { .major = 7, .minor = 38, .max_readahead = 131072,
				   .flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DO_READDIRPLUS |
					    FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES };
	build(&queues[1].slots[0], FUSE_INIT, 0, &in, 16, sizeof(struct fuse_init_out), 0, 0);
	struct fuse_init_out *out = once(&queues[1]);
	if (out->max_write < DATA_MAX)
		die("the back-end's max_write is too small");
	top = find(FUSE_ROOT_ID, "loadgen");
	tmp_dir = find(top, "tmp");
	list_dir = find(top, "list");
	many_dir = find(top, "many");
	small_dir = find(top, "small");
	sync_dir = find(top, "sync");
	for (int i = 0; i < SMALL; i++)
		small[i] = find_number(small_dir, i);
	big_fh = open_node(big = find(top, "big"), FUSE_OPEN, O_RDWR);
	cold_fh = open_node(cold = find(top, "cold"), FUSE_OPEN, O_RDONLY);
}

/* GETATTR, LOOKUP, OPEN with RELEASE. */
static int next_getattr(struct worker *w, struct slot *s)
{
	struct fuse_getattr_in in = { 0 };
	build(s, FUSE_GETATTR, small[++w->turn % SMALL], &in, sizeof(in), sizeof(struct fuse_attr_out), 0, 0);
	return 1;
}

static void lookup(struct slot *s, uint64_t dir, int i)
{
	int len = snprintf(s->name, sizeof(s->name), "file-%06d", i);
	build(s, FUSE_LOOKUP, dir, s->name, len + 1, sizeof(struct fuse_entry_out), 0, 0);
}

static int next_lookup(struct worker *w, struct slot *s)
{
	lookup(s, small_dir, ++w->turn % SMALL);
	return 1;
}

static void forget(struct slot *s)
{
	struct fuse_forget_in in = { .nlookup = 1 };
	build(s, FUSE_FORGET, s->node, &in, sizeof(in), -1, 0, 0);
}

/* LOOKUP of new nodes, forgotten all at once in between, or each in its turn. */
static uint64_t new_nodes[MANY];
static int forgotten; /* all workers' next name */

static int next_new(struct worker *w, struct slot *s)
{
	int i = __atomic_fetch_add(&forgotten, 1, __ATOMIC_RELAXED);
	(void)w;
	if (i >= MANY)
		return 0;
	s->at = i;
	lookup(s, many_dir, i);
	return 1;
}

static int done_new(struct worker *w, struct slot *s)
{
	(void)w;
	new_nodes[s->at] = ((struct fuse_entry_out *)reply_body(s))->nodeid;
	return 1;
}

static void between_new(void)
{
	enum { AT_ONCE = 50 };
	struct {
		struct fuse_batch_forget_in in;
		struct fuse_forget_one one[AT_ONCE];
	} b;

	forgotten = 0;
	for (int i = 0; i < MANY;) {
		int n = 0;
		for (; i < MANY && n < AT_ONCE; i++) {
			if (new_nodes[i])
				b.one[n++] = (struct fuse_forget_one){ new_nodes[i], 1 };
			new_nodes[i] = 0;
		}
		b.in = (struct fuse_batch_forget_in){ .count = n };
		build(&queues[0].slots[0], FUSE_BATCH_FORGET, 0, &b, sizeof(b.in) + n * sizeof(b.one[0]), -1, 0, 0);
		if (n)
			once(&queues[0]);
	}
}

static int next_forget(struct worker *w, struct slot *s)
{
	if (s->step)
		forget(s);
	else
		lookup(s, many_dir, (w->turn++ * setup.queues + w->index) % MANY);
	return 1;
}

static int done_forget(struct worker *w, struct slot *s)
{
	(void)w;
	s->step = !s->step;
	if (s->step)
		s->node = ((struct fuse_entry_out *)reply_body(s))->nodeid;
	return !s->step;
}

static void release(struct slot *s)
{
	struct fuse_release_in in = { .fh = s->fh };
	build(s, FUSE_RELEASE, s->node, &in, sizeof(in), 0, 0, 0);
}

static int next_open(struct worker *w, struct slot *s)
{
	struct fuse_open_in in = { .flags = O_RDONLY };

	if (s->step) {
		release(s);
		return 1;
	}
	s->node = small[++w->turn % SMALL];
	build(s, FUSE_OPEN, s->node, &in, sizeof(in), sizeof(struct fuse_open_out), 0, 0);
	return 1;
}

static int done_open(struct worker *w, struct slot *s)
{
	(void)w;
	s->step = !s->step;
	if (s->step)
		s->fh = ((struct fuse_open_out *)reply_body(s))->fh;
	return !s->step;
}

/* READ and WRITE: small ones at random, large ones in sequence. */
static void transfer(struct slot *s, uint64_t node, uint64_t fh, uint64_t off, int size, int writes)
{
	struct fuse_read_in r = { .fh = fh, .offset = off, .size = size };
	struct fuse_write_in w = { .fh = fh, .offset = off, .size = size };

	if (writes)
		build(s, FUSE_WRITE, node, &w, sizeof(w), sizeof(struct fuse_write_out), size, 0);
	else
		build(s, FUSE_READ, node, &r, sizeof(r), 0, 0, size);
}

static int next_transfer(struct worker *w, struct slot *s)
{
	int size = w->job->size;
	uint64_t i = w->turn++ + w->index * (BIG / size / setup.queues);
	if (size < DATA_MAX) /* a multiplicative hash scatters them */
		i = i * 0x9e3779b97f4a7c15ull >> 20;
	transfer(s, big, big_fh, i % (BIG / size) * size, size, w->job->writes);
	return 1;
}

static int done_transfer(struct worker *w, struct slot *s)
{
	if (w->job->writes ? ((struct fuse_write_out *)reply_body(s))->size != (unsigned)w->job->size :
			     reply_length(s) != (unsigned)w->job->size)
		die("a short read or write");
	return 1;
}

/* Every block of the file once, in an order without a pattern, then the cache is dropped. */
static int cold_turn;

static int next_cold(struct worker *w, struct slot *s)
{
	uint64_t i = __atomic_fetch_add(&cold_turn, 1, __ATOMIC_RELAXED), n = COLD / w->job->size;

	if (i >= n)
		return 0;
	transfer(s, cold, cold_fh, (i * 40503 + 12345) % n * w->job->size, w->job->size, 0); /* n is a power of two */
	return 1;
}

static void between_cold(void)
{
	char path[PATH_MAX];

	cold_turn = 0;
	path_of(path, "cold", -1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED))
		die(path);
	close(fd);
}

/* READDIRPLUS: each slot has a handle, and begins again at the end. */
static void setup_list(void)
{
	for (int i = 0; i < setup.queues * depth_max; i++)
		if (!list_fh[i])
			list_fh[i] = open_node(list_dir, FUSE_OPENDIR, O_RDONLY);
}

static int number(struct worker *w, struct slot *s)
{
	return w->index * depth_max + s->index;
}

static int next_list(struct worker *w, struct slot *s)
{
	struct fuse_read_in in = { .fh = list_fh[number(w, s)], .offset = s->at, .size = LIST_SIZE };
	build(s, FUSE_READDIRPLUS, list_dir, &in, sizeof(in), 0, 0, LIST_SIZE);
	return 1;
}

static int done_list(struct worker *w, struct slot *s)
{
	uint32_t len = reply_length(s), n = 0;
	struct fuse_direntplus *d;

	(void)w;
	s->at = 0;
	for (char *p = s->data; p < s->data + len; n++) {
		d = (void *)p;
		s->at = d->dirent.off;
		p += FUSE_DIRENTPLUS_SIZE(d);
	}
	return n;
}

/* CREATE, RELEASE, UNLINK, FORGET. */
static int next_create(struct worker *w, struct slot *s)
{
	struct {
		struct fuse_create_in in;
		char name[sizeof(s->name)];
	} b = { .in = { .flags = O_RDWR | O_CREAT | O_EXCL, .mode = S_IFREG | 0644 } };

	int len = snprintf(s->name, sizeof(s->name), "new-%d-%d-%d", getpid(), w->index, s->index);
	switch (s->step) {
	case 0:
		memcpy(b.name, s->name, len + 1);
		build(s, FUSE_CREATE, tmp_dir, &b, sizeof(b.in) + len + 1, sizeof(struct fuse_entry_out) + sizeof(struct fuse_open_out), 0, 0);
		break;
	case 1:
		release(s);
		break;
	case 2:
		build(s, FUSE_UNLINK, tmp_dir, s->name, len + 1, 0, 0, 0);
		break;
	case 3:
		forget(s);
	}
	return 1;
}

static int done_create(struct worker *w, struct slot *s)
{
	struct {
		struct fuse_entry_out entry;
		struct fuse_open_out open;
	} *out = reply_body(s);

	(void)w;
	if (s->step == 0) {
		s->node = out->entry.nodeid;
		s->fh = out->open.fh;
	}
	s->step = (s->step + 1) % 4;
	return s->step == 0;
}

/* WRITE and FSYNC, each slot in a file of its own. */
static void setup_sync(void)
{
	for (int i = 0; i < setup.queues * depth_max; i++)
		if (!sync_fh[i])
			sync_fh[i] = open_node(sync_node[i] = find_number(sync_dir, i), FUSE_OPEN, O_RDWR);
}

static int next_sync(struct worker *w, struct slot *s)
{
	int i = number(w, s);
	struct fuse_fsync_in in = { .fh = sync_fh[i] };

	if (s->step)
		build(s, FUSE_FSYNC, sync_node[i], &in, sizeof(in), 0, 0, 0);
	else
		transfer(s, sync_node[i], sync_fh[i], 0, 4096, 1);
	return 1;
}

static int done_sync(struct worker *w, struct slot *s)
{
	(void)w;
	s->step = !s->step;
	return !s->step;
}

const struct workload workloads[] = {
	{ .name = "getattr", .next = next_getattr },
	{ .name = "lookup", .next = next_lookup },
	{ .name = "lookup-new", .next = next_new, .done = done_new, .between = between_new },
	{ .name = "lookup-forget", .next = next_forget, .done = done_forget },
	{ .name = "open", .next = next_open, .done = done_open },
	{ .name = "read-4k", .next = next_transfer, .done = done_transfer, .size = 4096 },
	{ .name = "read-1m", .next = next_transfer, .done = done_transfer, .size = DATA_MAX },
	{ .name = "randread", .next = next_cold, .done = done_transfer, .between = between_cold, .size = 4096 },
	{ .name = "write-4k", .next = next_transfer, .done = done_transfer, .size = 4096, .writes = 1 },
	{ .name = "write-1m", .next = next_transfer, .done = done_transfer, .size = DATA_MAX, .writes = 1 },
	{ .name = "fsync", .next = next_sync, .done = done_sync, .setup = setup_sync },
	{ .name = "readdirplus", .next = next_list, .done = done_list, .setup = setup_list },
	{ .name = "create", .next = next_create, .done = done_create },
	{ 0 },
};
