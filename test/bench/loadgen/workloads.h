/* What is asked of a back-end again and again. */
#include "device.h"

/* A thread with its queue. */
struct worker {
	struct queue *q;
	int index, depth;
	uint64_t turn, left, units, requests;
	double time, end, now, cpu;
	const struct workload *job;
};

/* A workload's next makes a slot's next request, or returns 0 at the end of what there
 * is, from which "between" starts it anew. done returns how many units are complete; if
 * it is NULL, each request is one. */
struct workload {
	const char *name;
	int (*next)(struct worker *, struct slot *);
	int (*done)(struct worker *, struct slot *);
	void (*setup)(void);
	void (*between)(void);
	int size, writes; /* of transfers */
};

extern const struct workload workloads[]; /* the last has no name */

/* make_files makes what they need in the shared directory, if it is not there.
 * start_filesystem finds it through the device. */
void make_files(const char *share);
void start_filesystem(void);
