/* A vhost-user-fs device as its driver sees it, and the ways of driving it. */
#include <linux/fuse.h>
#include <linux/virtio_ring.h>
#include <stdint.h>

#define QSIZE 128	   /* entries of a ring */
#define DATA_MAX (1 << 20) /* file data of a request */
#define MAX_QUEUES 8	   /* request queues */

/* What is agreed on when connecting. */
struct setup {
	int queues;	/* request queues; queue 0 is there besides, for FORGET */
	int indirect;	/* descriptors in tables of each request's own */
	int no_event;	/* EVENT_IDX is not negotiated */
	int page_bufs;	/* data in buffers of a page each, as Linux's are; needs indirect */
};

/* How a queue is driven. */
enum wait { WAIT_POLL, WAIT_READ, WAIT_EPOLL, WAIT_SPIN };
enum refill {
	REFILL_EACH,  /* take all that is finished, each replaced at once; one kick for all */
	REFILL_BATCH, /* take all that is finished, then replace all; one kick for all */
	REFILL_ONE,   /* take one, ask to be called for the next, replace it, kick */
};
struct style {
	enum wait wait;
	enum refill refill;
	int always_kick; /* for each request, whatever the device asks for */
};

/* A request. Nothing of it may be changed while it is under way. */
struct slot {
	struct queue *q;
	int index;
	char *meta, *data; /* the first holds the request, the reply and the table */
	/* Of the workload. */
	int step;
	uint64_t node, fh, at;
	char name[48];
};

struct queue {
	int index, kick, call, epoll;
	struct vring v;
	uint16_t avail, kicked, used;
	uint64_t kicks, calls, unique;
	struct style style;
	struct slot slots[QSIZE];
};

extern struct setup setup; /* set before connect_device */
extern struct queue queues[MAX_QUEUES + 1];
extern int depth_max, peer; /* requests at a time; the process at the other end */

void die(const char *what);
void connect_device(const char *path);

/* build makes a request: len bytes of body behind the header; reply bytes behind the
 * reply's header, -1 for no reply at all; and data, in bytes to or from the device. */
void build(struct slot *s, int op, uint64_t node, const void *body, int len, int reply, int to, int from);

/* offer puts it in the ring; notify kicks for all that was offered, if the device wants
 * that. wait_used returns when something is finished, which finished takes, or NULL. */
void offer(struct queue *q, struct slot *s);
void notify(struct queue *q);
void wait_used(struct queue *q);
struct slot *finished(struct queue *q);
void ask_for_call(struct queue *q);

/* reply_body is what follows the reply's header, once the request is finished. */
void *reply_body(struct slot *s);
uint32_t reply_length(struct slot *s);

/* once sends the request in a queue's first slot and waits for its reply. */
void *once(struct queue *q);
