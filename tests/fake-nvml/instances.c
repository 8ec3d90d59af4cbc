/* MIG instances, and processes of GPUs and instances. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

#ifndef OLD_DRIVER
API code nvmlDeviceGetMigMode(device_handle device, unsigned *current, unsigned *pending)
{
    GPU_CALL(device, current && pending);
    RETURN_IF(fake_value32(target.gpu, "mig", current));
    *pending = *current;
    return SUCCESS;
}

API code nvmlDeviceGetMaxMigDeviceCount(device_handle device, unsigned *count)
{
    GPU_CALL(device, count);
    uint64_t mode;
    *count = fake_number(target.gpu, "mig", &mode) && mode ? MAX_INSTANCES : 0;
    return SUCCESS;
}

API code nvmlDeviceGetMigDeviceHandleByIndex(device_handle device, unsigned index, device_handle *instance)
{
    GPU_CALL(device, index < MAX_INSTANCES && instance);
    uint64_t mode;
    RETURN_IF(fake_number(target.gpu, "mig", &mode) ? SUCCESS : NOT_SUPPORTED);
    RETURN_IF(index < fake_instances(target.gpu) ? SUCCESS : NOT_FOUND);
    *instance = fake_handle((struct target){target.gpu, (int)index});
    return SUCCESS;
}

API code nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_handle instance, device_handle *device)
{
    DEVICE_CALL(instance, target.instance >= 0 && device);
    *device = fake_handle((struct target){target.gpu, -1});
    return SUCCESS;
}

API code nvmlDeviceIsMigDeviceHandle(device_handle device, unsigned *is)
{
    DEVICE_CALL(device, is);
    *is = target.instance >= 0;
    return SUCCESS;
}

/* As on a real GPU, the IDs of the smallest instances start at 7, and each has one compute instance. */
static unsigned gpu_instance(int instance)
{
    return 7 + (unsigned)instance;
}

API code nvmlDeviceGetGpuInstanceId(device_handle instance, unsigned *id)
{
    DEVICE_CALL(instance, target.instance >= 0 && id);
    *id = gpu_instance(target.instance);
    return SUCCESS;
}

API code nvmlDeviceGetComputeInstanceId(device_handle instance, unsigned *id)
{
    DEVICE_CALL(instance, target.instance >= 0 && id);
    *id = 0;
    return SUCCESS;
}

API code nvmlDeviceGetAttributes_v2(device_handle device, struct attributes *attributes)
{
    DEVICE_CALL(device, attributes);
    uint64_t bytes;
    RETURN_IF(target.instance >= 0 ? SUCCESS : NOT_SUPPORTED);
    RETURN_IF(fake_value64(target.gpu, "memory_total", &bytes));
    *attributes = (struct attributes){.multiprocessors = 16,
                                      .copy_engines = 1,
                                      .decoders = 1,
                                      .jpegs = 1,
                                      .gpu_slices = 1,
                                      .compute_slices = 1,
                                      .memory_mib = bytes / MAX_INSTANCES >> 20};
    return SUCCESS;
}
#endif

/*
 * Parses the processes of `target` from `PID:BYTES,...`. In MIG mode they are distributed to the instances in turn, and the
 * GPU itself reports all of them. The caller frees *all.
 */
static unsigned processes(struct target target, const char *key, struct process_v2 **all)
{
    char full[32];
    unsigned count = 0, number = 0, instances = fake_instances(target.gpu);
    snprintf(full, sizeof full, "gpu.%d.%s", target.gpu, key);
    const char *rest = fake_line(full);
    *all = NULL;
    while (rest && *rest) {
        char *end;
        struct process_v2 process = {.gpu_instance = NO_INSTANCE_ID, .compute_instance = NO_INSTANCE_ID};
        process.pid = (unsigned)strtoul(rest, &end, 10);
        if (end == rest || *end != ':')
            fake_abort("%s: wants PID:BYTES, not %s", full, rest);
        rest = end + 1;
        if (strncmp(rest, "none", 4) == 0) {
            process.bytes = NOT_AVAILABLE;
            end = (char *)rest + 4;
        } else {
            process.bytes = strtoull(rest, &end, 10);
        }
        end += strspn(end, " \t");
        if (end == rest || (*end && *end != ','))
            fake_abort("%s: wants PID:BYTES, not %s", full, rest);
        rest = *end ? end + 1 : end;
        int instance = instances ? (int)(number++ % instances) : -1;
        if (target.instance >= 0 && instance != target.instance)
            continue;
#ifndef OLD_DRIVER
        if (instance >= 0) {
            process.gpu_instance = gpu_instance(instance);
            process.compute_instance = 0;
        }
#endif
        *all = realloc(*all, (count + 1) * sizeof **all);
        (*all)[count++] = process;
    }
    return count;
}

/* The unversioned calls write smaller structs, although current headers map their names to a later version. */
#define PROCESSES(function, type, key, ...)                                                                       \
    API code function(device_handle device, unsigned *count, type *infos)                                         \
    {                                                                                                             \
        DEVICE_CALL(device, count && (infos || *count == 0));                                                     \
        struct process_v2 *all;                                                                                   \
        unsigned found = processes(target, key, &all);                                                            \
        bool fits = found <= *count;                                                                              \
        for (unsigned i = 0; fits && i < found; i++)                                                              \
            infos[i] = (type)__VA_ARGS__;                                                                         \
        free(all);                                                                                                \
        *count = found;                                                                                           \
        return fits ? SUCCESS : INSUFFICIENT_SIZE;                                                                \
    }
#define V1 {all[i].pid, all[i].bytes}
#define V2 {all[i].pid, all[i].bytes, all[i].gpu_instance, all[i].compute_instance}
PROCESSES(nvmlDeviceGetComputeRunningProcesses, struct process_v1, "processes", V1)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses, struct process_v1, "graphics", V1)
#ifndef OLD_DRIVER
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2, struct process_v2, "processes", V2)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, struct process_v2, "processes", V2)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2, struct process_v2, "graphics", V2)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, struct process_v2, "graphics", V2)
#endif
