/* Event sets. The only events are the XIDs in the script (`xid = SEQ:GPU:CODE, ...`). */
#include <stdio.h>
#include <time.h>

#include "fake.h"

#define EVENT_TYPES (1u | 2u | EVENT_XID) /* single- and double-bit ECC errors can be registered, but never occur */
#define MAX_SETS 16
#define MAX_DELIVERED 4096
#define STEP_NS 10000000 /* interval of checking the script: short enough for tests, with negligible CPU time */

/* Each XID is delivered once per process, even across new event sets and nvmlInit calls. */
static uint64_t delivered[MAX_DELIVERED];
static unsigned delivered_count;

static struct event_set {
    bool in_use;
    bool wants_xids[MAX_GPUS];
} sets[MAX_SETS];

static bool is_set(set_handle set)
{
    for (unsigned i = 0; i < MAX_SETS; i++)
        if (set == &sets[i])
            return set->in_use;
    return false;
}

API code nvmlEventSetCreate(set_handle *set)
{
    GLOBAL_CALL(set);
    for (unsigned i = 0; i < MAX_SETS; i++)
        if (!sets[i].in_use) {
            sets[i] = (struct event_set){.in_use = true};
            *set = &sets[i];
            return SUCCESS;
        }
    return OUT_OF_MEMORY;
}

API code nvmlEventSetFree(set_handle set)
{
    GLOBAL_CALL(is_set(set));
    set->in_use = false;
    return SUCCESS;
}

API code nvmlDeviceGetSupportedEventTypes(device_handle device, uint64_t *types)
{
    GPU_CALL(device, types);
    *types = EVENT_TYPES;
    return SUCCESS;
}

API code nvmlDeviceRegisterEvents(device_handle device, uint64_t types, set_handle set)
{
    GPU_CALL(device, is_set(set));
    RETURN_IF(types & ~(uint64_t)EVENT_TYPES ? NOT_SUPPORTED : SUCCESS);
    if (types & EVENT_XID)
        set->wants_xids[target.gpu] = true;
    return SUCCESS;
}

static bool was_delivered(uint64_t sequence)
{
    for (unsigned i = 0; i < delivered_count; i++)
        if (delivered[i] == sequence)
            return true;
    return false;
}

static bool next_xid(set_handle set, struct event_v2 *event)
{
    const char *rest = fake_line("xid");
    while (rest && *rest) {
        unsigned long long sequence, xid;
        unsigned gpu;
        int used = 0;
        if (sscanf(rest, " %llu:%u:%llu %n", &sequence, &gpu, &xid, &used) != 3 || gpu >= MAX_GPUS ||
            (rest[used] && rest[used] != ','))
            fake_abort("xid: wants SEQ:GPU:CODE, not %s", rest);
        rest += used + (rest[used] == ',');
        if (!set->wants_xids[gpu] || was_delivered(sequence))
            continue;
        if (delivered_count == MAX_DELIVERED)
            fake_abort("xid: more than %d", MAX_DELIVERED);
        delivered[delivered_count++] = sequence;
        *event = (struct event_v2){fake_handle((struct target){(int)gpu, -1}), EVENT_XID, xid, NO_INSTANCE_ID,
                                   NO_INSTANCE_ID};
        return true;
    }
    return false;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* Releases the lock while waiting. Taking it again rereads a changed script. */
static code wait(set_handle set, unsigned timeout_ms, struct event_v2 *event)
{
    int64_t deadline = now_ns() + timeout_ms * 1000000ll;
    while (!next_xid(set, event)) {
        int64_t left = deadline - now_ns();
        if (left <= 0)
            return TIMEOUT;
        fake_unlock(NULL);
        nanosleep(&(struct timespec){0, (long)(left < STEP_NS ? left : STEP_NS)}, NULL);
        fake_lock();
    }
    return SUCCESS;
}

#ifndef OLD_DRIVER
API code nvmlEventSetWait_v2(set_handle set, struct event_v2 *event, unsigned timeout_ms)
{
    GLOBAL_CALL(is_set(set) && event);
    return wait(set, timeout_ms, event);
}
#endif

/* The older call must not write the instance IDs. */
API code nvmlEventSetWait(set_handle set, struct event_v1 *event, unsigned timeout_ms)
{
    GLOBAL_CALL(is_set(set) && event);
    struct event_v2 full;
    RETURN_IF(wait(set, timeout_ms, &full));
    *event = (struct event_v1){full.device, full.type, full.data};
    return SUCCESS;
}
