/*
 * A second load generator for vhost-user-fs back-ends, to check "govirtiofs bench"
 * against, and to drive them in ways that it has not. It shares no code with it.
 *
 *   cd test/bench/loadgen && cc -O2 -pthread -o loadgen loadgen.c workloads.c device.c
 *   ./loadgen [OPTION]... SOCKET DIR WORKLOAD DEPTH SECONDS
 *
 * DIR is the directory that the back-end at SOCKET shares; what the workloads need is
 * made in DIR/loadgen, once. DEPTH is the number of requests at a time, of each queue.
 * A WORKLOAD of - reads lines "WORKLOAD DEPTH SECONDS STYLE" from the standard input,
 * so that several generators can take turns.
 *
 *   -q N      request queues, one thread each (1)
 *   -i        indirect descriptors (direct)
 *   -g        data in buffers of a page each; needs -i
 *   -e        EVENT_IDX is not negotiated
 *   -s STYLE  words with commas between: how to wait, poll (the default), read, epoll
 *             or spin; when to replace finished requests, each (the default), batch or
 *             one (see device.h); kick, whether or not the back-end wants that
 *   -n COUNT  ends after so many operations (READDIRPLUS: requests)
 *   -p PID    whose processor time counts; may be repeated (the listening process and
 *             its children)
 *
 * It prints operations per second (readdirplus: entries), microseconds of processor
 * time per operation of the back-end and of itself, and notifications per request.
 */
#define _GNU_SOURCE
#include "workloads.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Processor time. */
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

/* Driving. */

/* ask sends a slot's next request; 0 if there is none to begin. */
static int ask(struct worker *w, struct slot *s)
{
	if (s->step == 0) {
		if (w->left == 0 || w->now >= w->end)
			return 0;
		w->left--;
	}
	if (!w->job->next(w, s))
		return 0;
	offer(w->q, s);
	return 1;
}

static void count(struct worker *w, struct slot *s)
{
	w->requests++;
	w->units += w->job->done ? w->job->done(w, s) : 1;
}

/* take handles what is finished and returns by how much fewer requests are under way. */
static int take(struct worker *w)
{
	struct queue *q = w->q;
	struct slot *s, *batch[QSIZE];
	int n = 0, fewer = 0;

	while ((s = finished(q))) {
		count(w, s);
		if (q->style.refill == REFILL_BATCH) {
			batch[n++] = s;
			continue;
		}
		if (q->style.refill == REFILL_ONE)
			ask_for_call(q);
		fewer += !ask(w, s);
		if (q->style.refill == REFILL_ONE)
			notify(q);
	}
	for (int i = 0; i < n; i++)
		fewer += !ask(w, batch[i]);
	notify(q);
	return fewer;
}

static void *drive(void *arg)
{
	struct worker *w = arg;
	int under_way = 0;

	w->cpu -= clock_us(CLOCK_THREAD_CPUTIME_ID);
	w->now = clock_us(CLOCK_MONOTONIC);
	w->end = w->now + w->time; /* from here on: a busy machine may start threads late */
	for (int i = 0; i < w->depth; i++)
		under_way += ask(w, &w->q->slots[i]);
	notify(w->q);
	while (under_way > 0) {
		wait_used(w->q);
		w->now = clock_us(CLOCK_MONOTONIC);
		under_way -= take(w);
	}
	w->cpu += clock_us(CLOCK_THREAD_CPUTIME_ID);
	return NULL;
}

/* stretch drives all queues until the time is over or the workload is at its end, and
 * returns how long that took. */
static double stretch(struct worker *w, double us)
{
	pthread_t threads[MAX_QUEUES];
	double start = clock_us(CLOCK_MONOTONIC);

	for (int i = 0; i < setup.queues; i++) {
		w[i].time = us;
		if (pthread_create(&threads[i], NULL, drive, &w[i]))
			die("thread");
	}
	for (int i = 0; i < setup.queues; i++)
		pthread_join(threads[i], NULL);
	return clock_us(CLOCK_MONOTONIC) - start;
}

struct result {
	double us, cpu, own;
	uint64_t units, requests, kicks, calls;
};

static struct result run(const struct workload *job, int depth, double us, uint64_t count)
{
	struct worker w[MAX_QUEUES] = { 0 };
	struct result r = { 0 };

	for (int i = 0; i < setup.queues; i++) {
		struct queue *q = &queues[i + 1];
		w[i] = (struct worker){ .q = q, .index = i, .depth = depth, .job = job, .left = count / setup.queues, .turn = 7 * i };
		for (int k = 0; k < depth_max; k++)
			q->slots[k].step = q->slots[k].at = 0;
		r.kicks -= q->kicks;
		r.calls -= q->calls;
	}
	for (uint64_t before = 1, units = 0; r.us < us && units != before && w[0].left > 0;) {
		if (job->between)
			job->between();
		r.cpu -= daemon_us();
		r.us += stretch(w, us - r.us);
		r.cpu += daemon_us();
		before = units;
		units = 0;
		for (int i = 0; i < setup.queues; i++)
			units += w[i].units;
	}
	if (job->between)
		job->between();
	for (int i = 0; i < setup.queues; i++) {
		r.units += w[i].units;
		r.requests += w[i].requests;
		r.own += w[i].cpu;
		r.kicks += queues[i + 1].kicks;
		r.calls += queues[i + 1].calls;
	}
	return r;
}

static struct style style_of(const char *words)
{
	static const char *waits[] = { "poll", "read", "epoll", "spin" }, *refills[] = { "each", "batch", "one" };
	struct style s = { 0 };
	char copy[128], *word, *state;

	snprintf(copy, sizeof(copy), "%s", words);
	for (word = strtok_r(copy, ",", &state); word; word = strtok_r(NULL, ",", &state)) {
		int known = !strcmp(word, "kick");
		s.always_kick |= known;
		for (int i = 0; i < 4; i++)
			if (!strcmp(word, waits[i]))
				s.wait = i, known = 1;
		for (int i = 0; i < 3; i++)
			if (!strcmp(word, refills[i]))
				s.refill = i, known = 1;
		if (!known)
			die("there is no such style");
	}
	return s;
}

static void measure(const char *name, int depth, double seconds, const char *style, uint64_t count)
{
	const struct workload *job;

	errno = 0;
	for (job = workloads; job->name && strcmp(job->name, name); job++)
		;
	if (!job->name)
		die("there is no such workload");
	if (depth < 1 || depth > depth_max || seconds <= 0)
		die("a depth or a time is out of range");
	for (int i = 1; i <= setup.queues; i++)
		queues[i].style = style_of(style);
	alarm(seconds * 2 + 60);
	if (job->setup)
		job->setup();
	if (!count)
		run(job, depth, seconds * 1e6 / 4, UINT64_MAX);
	struct result r = run(job, depth, seconds * 1e6, count ? count : UINT64_MAX);
	printf("%s depth=%d style=%s n=%llu per_s=%.0f cpu_us=%.3f driver_us=%.3f kicks=%.3f calls=%.3f\n", name, depth, style,
	       (unsigned long long)r.units, r.units / (r.us / 1e6), r.cpu / r.units, r.own / r.units, (double)r.kicks / r.requests,
	       (double)r.calls / r.requests);
	fflush(stdout);
}

static void usage(void)
{
	fprintf(stderr, "usage: loadgen [-eig] [-q QUEUES] [-s STYLE] [-n COUNT] [-p PID]... SOCKET DIR WORKLOAD DEPTH SECONDS\n"
			"       loadgen [-eig] [-q QUEUES] [-n COUNT] [-p PID]... SOCKET DIR -\n");
	exit(2);
}

int main(int argc, char **argv)
{
	const char *style = "poll,each";
	uint64_t count = 0;

	for (int c; (c = getopt(argc, argv, "eigq:s:n:p:")) != -1;) {
		switch (c) {
		case 'e': setup.no_event = 1; break;
		case 'i': setup.indirect = 1; break;
		case 'g': setup.page_bufs = 1; break;
		case 'q': setup.queues = atoi(optarg); break;
		case 's': style = optarg; break;
		case 'n': count = strtoull(optarg, NULL, 10); break;
		case 'p':
			if (npids < 256)
				pids[npids++] = atoi(optarg);
			break;
		default: usage();
		}
	}
	argv += optind;
	argc -= optind;
	if (argc < 3 || (strcmp(argv[2], "-") ? argc != 5 : argc != 3) || setup.queues < 1 || setup.queues > MAX_QUEUES ||
	    (setup.page_bufs && !setup.indirect))
		usage();
	make_files(argv[1]);
	connect_device(argv[0]);
	if (npids == 0 && peer)
		add_family(peer);
	start_filesystem();
	if (argc == 5) {
		measure(argv[2], atoi(argv[3]), atof(argv[4]), style, count);
		return 0;
	}
	char line[256], name[32], how[128];
	int depth;
	double seconds;
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%31s %d %lf %127s", name, &depth, &seconds, how) != 4)
			die("a line of the standard input");
		measure(name, depth, seconds, how, count);
	}
	return 0;
}
