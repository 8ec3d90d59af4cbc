/*
 * GPM: samples, and metrics between two of them. Misuse that a real library answers with a crash or with wrong values aborts
 * the process: calls from several threads, freed samples, samples of different GPUs, samples less than 100 ms apart.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake.h"

#ifndef OLD_DRIVER

#define MAX_SAMPLES 1024
#define MIN_DISTANCE_NS 100000000

/* `gpm_metrics` of the script at the time of the sample. */
static struct gpm_sample {
    bool in_use, taken;
    struct target target;
    int64_t taken_ns;
    char metrics[1024];
} samples[MAX_SAMPLES];

static void check_thread(void)
{
    static pthread_t first;
    static bool known;
    if (!known) {
        first = pthread_self();
        known = true;
    }
    if (!pthread_equal(first, pthread_self()))
        fake_abort("GPM is called by several threads");
}

static void check_sample(sample_handle sample)
{
    if (sample < samples || sample >= samples + MAX_SAMPLES || !sample->in_use)
        fake_abort("not a GPM sample, or a freed one");
}

/* Rules, errors and aborts of calls without a GPU. */
#define GPM_CALL(arguments_ok)                                                                                     \
    GLOBAL_CALL(arguments_ok);                                                                                     \
    check_thread()

static code supported(int gpu)
{
    uint64_t supported;
    return fake_number(gpu, "gpm", &supported) && supported ? SUCCESS : NOT_SUPPORTED;
}

API code nvmlGpmQueryDeviceSupport(device_handle device, struct gpm_support *support)
{
    GPU_CALL(device, support && support->version == 1);
    check_thread();
    support->supported = supported(target.gpu) == SUCCESS;
    return SUCCESS;
}

API code nvmlGpmSampleAlloc(sample_handle *sample)
{
    GPM_CALL(sample);
    for (unsigned i = 0; i < MAX_SAMPLES; i++)
        if (!samples[i].in_use) {
            samples[i] = (struct gpm_sample){.in_use = true};
            *sample = &samples[i];
            return SUCCESS;
        }
    fake_abort("more than %d GPM samples", MAX_SAMPLES);
}

API code nvmlGpmSampleFree(sample_handle sample)
{
    GPM_CALL(true);
    check_sample(sample);
    sample->in_use = false;
    return SUCCESS;
}

static code take(struct target target, sample_handle sample)
{
    check_thread();
    check_sample(sample);
    RETURN_IF(supported(target.gpu));
    char key[32];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(key, sizeof key, "gpu.%d.gpm_metrics", target.gpu);
    const char *metrics = fake_line(key);
    sample->target = target;
    sample->taken = true;
    sample->taken_ns = now.tv_sec * 1000000000ll + now.tv_nsec;
    if ((size_t)snprintf(sample->metrics, sizeof sample->metrics, "%s", metrics ? metrics : "") >= sizeof sample->metrics)
        fake_abort("%s: too long", key);
    return SUCCESS;
}

/* A GPU in MIG mode has samples of its instances only. */
API code nvmlGpmSampleGet(device_handle device, sample_handle sample)
{
    GPU_CALL(device, sample);
    uint64_t mode;
    RETURN_IF(fake_number(target.gpu, "mig", &mode) && mode ? NOT_SUPPORTED : SUCCESS);
    return take(target, sample);
}

API code nvmlGpmMigSampleGet(device_handle device, unsigned instance, sample_handle sample)
{
    GPU_CALL(device, sample);
    unsigned number = instance - 7; /* see gpu_instance() */
    RETURN_IF(number < fake_instances(target.gpu) ? SUCCESS : INVALID_ARGUMENT);
    target.instance = (int)number;
    return take(target, sample);
}

/* `gpm_metrics = ID:VALUE, ...` with `nan` for the driver's result of 0 ÷ 0. */
static code metric(const struct gpm_sample *sample, unsigned id, double *value)
{
    bool is_of_whole_gpu = id == 20 || id == 21 || id >= 60;
    if (sample->target.instance >= 0 && is_of_whole_gpu)
        return NOT_SUPPORTED;
    for (const char *rest = sample->metrics; *rest;) {
        unsigned known;
        int used = 0;
        if (sscanf(rest, " %u:%lf %n", &known, value, &used) != 2 || (rest[used] && rest[used] != ','))
            fake_abort("gpm_metrics: wants ID:VALUE, not %s", rest);
        if (known == id)
            return SUCCESS;
        rest += used + (rest[used] == ',');
    }
    return NOT_SUPPORTED;
}

API code nvmlGpmMetricsGet(struct gpm_request *request)
{
    GPM_CALL(request && request->version == 1 && request->count);
    check_sample(request->before);
    check_sample(request->after);
    const struct gpm_sample *before = request->before, *after = request->after;
    if (!before->taken || !after->taken || before->target.gpu != after->target.gpu ||
        before->target.instance != after->target.instance)
        fake_abort("GPM samples of different GPUs, or none");
    if (after->taken_ns - before->taken_ns < MIN_DISTANCE_NS)
        fake_abort("GPM samples are less than 100 ms apart");
    for (unsigned i = 0; i < request->count; i++) {
        struct gpm_metric *each = &request->metrics[i];
        each->result = metric(after, each->id, &each->value);
        each->short_name = each->long_name = each->unit = "";
    }
    return SUCCESS;
}

/* Streaming mode is a setting of the GPU that others may depend on. */
API code nvmlGpmSetStreamingEnabled(device_handle device, unsigned on)
{
    GPU_CALL(device, on <= 1);
    fake_abort("nvmlGpmSetStreamingEnabled is called");
}

#endif
