/*
 * Fake of NVIDIA's management library, libnvidia-ml.so.1: functions for the system and for whole GPUs. The others are in
 * fields.c, instances.c and events.c.
 *
 * -DOLD_DRIVER models the library of a driver from about 2018 (390 to 396, NVML 9) and omits all functions that are
 * missing in headers of that time. In all files these are:
 *   nvmlSystemGetCudaDriverVersion_v2, nvmlDeviceGetMemoryInfo_v2, nvmlDeviceGetNumFans, nvmlDeviceGetFanSpeed_v2,
 *   nvmlDeviceGetCurrentClocksEventReasons, nvmlDeviceGetRemappedRows, nvmlDeviceGetAttributes_v2,
 *   nvmlDeviceGet{Compute,Graphics}RunningProcesses_v2 and _v3, nvmlEventSetWait_v2, and all of MIG:
 *   nvmlDeviceGetMigMode, nvmlDeviceGetMaxMigDeviceCount, nvmlDeviceGetMigDeviceHandleByIndex,
 *   nvmlDeviceGetDeviceHandleFromMigDeviceHandle, nvmlDeviceIsMigDeviceHandle, nvmlDeviceGetGpuInstanceId,
 *   nvmlDeviceGetComputeInstanceId.
 * The last field is 93 and the last link 5. Real drivers of that time may lack other functions.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "fake.h"

#ifdef CHATTY
#include <stdio.h>

__attribute__((constructor)) static void chat(void)
{
    puts("NVML: printed by the library");
    fflush(stdout);
}
#endif

#ifdef OLD_DRIVER
#define DRIVER "390.157"
#define CUDA 9010
#define PCI_DEVICE_ID 0x1DB510DE
#else
#define DRIVER "550.54.14"
#define CUDA 12040
#define PCI_DEVICE_ID 0x233010DE
#endif

#define INIT                                                                                                      \
    ENTRY;                                                                                                        \
    RETURN_IF(fake_rules(entry, (struct target){-1, -1}));                                                        \
    return fake_init()

API code nvmlInit(void) { INIT; }
API code nvmlInit_v2(void) { INIT; }
API code nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    INIT;
}

API code nvmlShutdown(void)
{
    GLOBAL_CALL(true);
    return fake_shutdown();
}

API const char *nvmlErrorString(code result)
{
    ENTRY;
    fake_rules(entry, (struct target){-1, -1});
    static char text[64];
    snprintf(text, sizeof text, "fake NVML's error %u", result);
    return text;
}

API code nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    GLOBAL_CALL(version);
    const char *line = fake_line("driver");
    return fake_string(line ? line : DRIVER, version, length);
}

#define CUDA_VERSION(function)                                                                                    \
    API code function(int *version)                                                                               \
    {                                                                                                             \
        GLOBAL_CALL(version);                                                                                     \
        *version = (int)fake_setting("cuda", CUDA);                                                               \
        return SUCCESS;                                                                                           \
    }
CUDA_VERSION(nvmlSystemGetCudaDriverVersion)
#ifndef OLD_DRIVER
CUDA_VERSION(nvmlSystemGetCudaDriverVersion_v2)
#endif

#define COUNT(function)                                                                                           \
    API code function(unsigned *count)                                                                            \
    {                                                                                                             \
        GLOBAL_CALL(count);                                                                                       \
        *count = fake_count();                                                                                    \
        return SUCCESS;                                                                                           \
    }
COUNT(nvmlDeviceGetCount)
COUNT(nvmlDeviceGetCount_v2)

/* The rules for the GPU that was found apply: a lost GPU has no handle. */
static code found(const char *entry, int gpu, bool arguments_ok, code otherwise, device_handle *device)
{
    RETURN_IF(fake_enter(entry, (struct target){gpu, -1}));
    RETURN_IF(arguments_ok ? SUCCESS : INVALID_ARGUMENT);
    RETURN_IF(gpu < 0 ? otherwise : SUCCESS);
    *device = fake_handle((struct target){gpu, -1});
    return SUCCESS;
}

#define BY_INDEX(function)                                                                                        \
    API code function(unsigned index, device_handle *device)                                                      \
    {                                                                                                             \
        ENTRY;                                                                                                    \
        return found(entry, fake_gpu_at(index), device, INVALID_ARGUMENT, device);                                \
    }
BY_INDEX(nvmlDeviceGetHandleByIndex)
BY_INDEX(nvmlDeviceGetHandleByIndex_v2)

static bool parse_pci(const char *text, struct pci_info *pci)
{
    int end = 0;
    *pci = (struct pci_info){0};
    return sscanf(text, "%x:%x:%x.0%n", &pci->domain, &pci->bus, &pci->device, &end) == 3 && end && !text[end];
}

void fake_pci_ids(struct pci_info *pci)
{
    snprintf(pci->short_id, sizeof pci->short_id, "%04X:%02X:%02X.0", pci->domain & 0xFFFF, pci->bus & 0xFF,
             pci->device & 0xFF);
    snprintf(pci->id, sizeof pci->id, "%08X:%02X:%02X.0", pci->domain, pci->bus & 0xFF, pci->device & 0xFF);
}

static int gpu_with_pci(const char *text)
{
    struct pci_info wanted, pci;
    char id[128];
    int gpu;
    if (!text || !parse_pci(text, &wanted))
        return -1;
    for (unsigned i = 0; (gpu = fake_gpu_at(i)) >= 0; i++) {
        fake_text(gpu, "pci", id);
        if (parse_pci(id, &pci) && pci.domain == wanted.domain && pci.bus == wanted.bus && pci.device == wanted.device)
            break;
    }
    return gpu;
}

#define BY_PCI(function)                                                                                          \
    API code function(const char *id, device_handle *device)                                                      \
    {                                                                                                             \
        ENTRY;                                                                                                    \
        return found(entry, gpu_with_pci(id), id && device, NOT_FOUND, device);                                   \
    }
BY_PCI(nvmlDeviceGetHandleByPciBusId)
BY_PCI(nvmlDeviceGetHandleByPciBusId_v2)

API code nvmlDeviceGetHandleByUUID(const char *uuid, device_handle *device)
{
    ENTRY;
    int gpu;
    for (unsigned i = 0; (gpu = fake_gpu_at(i)) >= 0; i++) {
        char text[128];
        fake_text(gpu, "uuid", text);
        if (uuid && strcasecmp(text, uuid) == 0)
            break;
    }
    return found(entry, gpu, uuid && device, NOT_FOUND, device);
}

API code nvmlDeviceGetIndex(device_handle device, unsigned *index)
{
    DEVICE_CALL(device, index);
    *index = target.instance < 0 ? fake_index_of(target.gpu) : (unsigned)target.instance;
    return SUCCESS;
}

API code nvmlDeviceGetUUID(device_handle device, char *uuid, unsigned length)
{
    DEVICE_CALL(device, uuid);
    char text[128];
    fake_text(target.gpu, "uuid", text);
    if (target.instance >= 0 && strncmp(text, "GPU-", 4) == 0) {
        memcpy(text, "MIG", 3);
        text[4] = (char)('0' + target.instance);
    }
    return fake_string(text, uuid, length);
}

API code nvmlDeviceGetName(device_handle device, char *name, unsigned length)
{
    DEVICE_CALL(device, name);
    char text[128], instance[160];
    fake_text(target.gpu, "name", text);
    snprintf(instance, sizeof instance, "%s MIG 1g.10gb", text);
    return fake_string(target.instance < 0 ? text : instance, name, length);
}

API code nvmlDeviceGetMinorNumber(device_handle device, unsigned *minor)
{
    GPU_CALL(device, minor);
    *minor = (unsigned)target.gpu;
    return SUCCESS;
}

API code nvmlDeviceGetPciInfo_v3(device_handle device, struct pci_info *pci)
{
    GPU_CALL(device, pci);
    char text[128];
    fake_text(target.gpu, "pci", text);
    if (!parse_pci(text, pci))
        fake_abort("gpu.%d.pci: wants DOMAIN:BUS:DEVICE.0, not %s", target.gpu, text);
    fake_pci_ids(pci);
    pci->device_id = PCI_DEVICE_ID;
    pci->subsystem_id = PCI_DEVICE_ID;
    return SUCCESS;
}

/* An instance has a share. Version 1 of the call includes reserved memory in used memory. */
static code memory(struct target target, struct memory_v2 *memory)
{
    RETURN_IF(fake_value64(target.gpu, "memory_total", &memory->total));
    RETURN_IF(fake_value64(target.gpu, "memory_used", &memory->used));
    RETURN_IF(fake_value64(target.gpu, "memory_reserved", &memory->reserved));
    if (!fake_number(target.gpu, "memory_free", &memory->free))
        memory->free = memory->total - memory->used - memory->reserved;
    if (target.instance >= 0) {
        memory->total /= MAX_INSTANCES;
        memory->used /= MAX_INSTANCES;
        memory->reserved /= MAX_INSTANCES;
        memory->free = memory->total - memory->used - memory->reserved;
    }
    return SUCCESS;
}

API code nvmlDeviceGetMemoryInfo(device_handle device, struct memory_v1 *info)
{
    DEVICE_CALL(device, info);
    struct memory_v2 full;
    RETURN_IF(memory(target, &full));
    *info = (struct memory_v1){full.total, full.free, full.used + full.reserved};
    return SUCCESS;
}

#ifndef OLD_DRIVER
API code nvmlDeviceGetMemoryInfo_v2(device_handle device, struct memory_v2 *info)
{
    DEVICE_CALL(device, info);
    RETURN_IF(info->version == (sizeof *info | 2u << 24) ? SUCCESS : VERSION_MISMATCH);
    return memory(target, info);
}
#endif

/* A GPU in MIG mode reports no utilization. */
static code not_with_mig(int gpu)
{
    uint64_t mode;
    return fake_number(gpu, "mig", &mode) && mode ? NOT_SUPPORTED : SUCCESS;
}

API code nvmlDeviceGetUtilizationRates(device_handle device, struct utilization *utilization)
{
    GPU_CALL(device, utilization);
    RETURN_IF(not_with_mig(target.gpu));
    RETURN_IF(fake_value32(target.gpu, "util_gpu", &utilization->gpu));
    return fake_value32(target.gpu, "util_mem", &utilization->memory);
}

#define CODER(function, key)                                                                                      \
    API code function(device_handle device, unsigned *utilization, unsigned *period_us)                           \
    {                                                                                                             \
        GPU_CALL(device, utilization && period_us);                                                               \
        RETURN_IF(not_with_mig(target.gpu));                                                                      \
        *period_us = 167000;                                                                                      \
        return fake_value32(target.gpu, key, utilization);                                                        \
    }
CODER(nvmlDeviceGetEncoderUtilization, "enc")
CODER(nvmlDeviceGetDecoderUtilization, "dec")

API code nvmlDeviceGetTemperature(device_handle device, unsigned sensor, unsigned *celsius)
{
    GPU_CALL(device, sensor == 0 && celsius);
    return fake_value32(target.gpu, "temp", celsius);
}

#define NUMBER(function, type, implement, key)                                                                    \
    API code function(device_handle device, type *value)                                                          \
    {                                                                                                             \
        GPU_CALL(device, value);                                                                                  \
        return implement(target.gpu, key, value);                                                                 \
    }
NUMBER(nvmlDeviceGetPowerUsage, unsigned, fake_value32, "power_mw")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, fake_value32, "power_limit_mw")
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned, fake_value32, "power_limit_mw")
NUMBER(nvmlDeviceGetTotalEnergyConsumption, uint64_t, fake_value64, "energy_mj")
NUMBER(nvmlDeviceGetPerformanceState, unsigned, fake_value32, "pstate")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, uint64_t, fake_value64, "reasons")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, fake_value32, "pcie_gen")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned, fake_value32, "pcie_width")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, fake_value32, "pcie_gen_max")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned, fake_value32, "pcie_width_max")
NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned, fake_value32, "pcie_replay")
#ifndef OLD_DRIVER
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, uint64_t, fake_value64, "reasons")
#endif

/* A GPU with a fan speed in its script has one fan unless the script sets the number. */
static unsigned fans(int gpu)
{
    uint64_t count;
    if (!fake_number(gpu, "fans", &count))
        return fake_number(gpu, "fan", &count);
    return (unsigned)count;
}

API code nvmlDeviceGetFanSpeed(device_handle device, unsigned *percent)
{
    GPU_CALL(device, percent);
    RETURN_IF(fans(target.gpu) ? SUCCESS : NOT_SUPPORTED);
    return fake_value32(target.gpu, "fan", percent);
}

#ifndef OLD_DRIVER
API code nvmlDeviceGetFanSpeed_v2(device_handle device, unsigned fan, unsigned *percent)
{
    GPU_CALL(device, percent);
    unsigned count = fans(target.gpu);
    RETURN_IF(count == 0 ? NOT_SUPPORTED : fan >= count ? INVALID_ARGUMENT : SUCCESS);
    return fake_value32(target.gpu, "fan", percent);
}

API code nvmlDeviceGetNumFans(device_handle device, unsigned *count)
{
    GPU_CALL(device, count);
    *count = fans(target.gpu);
    return *count ? SUCCESS : NOT_SUPPORTED;
}

API code nvmlDeviceGetRemappedRows(device_handle device, unsigned *corrected, unsigned *uncorrected,
                                   unsigned *pending, unsigned *failure)
{
    GPU_CALL(device, corrected && uncorrected && pending && failure);
    RETURN_IF(fake_value32(target.gpu, "remapped_corrected", corrected));
    RETURN_IF(fake_value32(target.gpu, "remapped_uncorrected", uncorrected));
    RETURN_IF(fake_value32(target.gpu, "remapped_pending", pending));
    return fake_value32(target.gpu, "remapped_failure", failure);
}
#endif

/* Graphics and SM have the same clock, as in most reports of real GPUs. The video clock is not implemented. */
#define CLOCK(function, suffix)                                                                                   \
    API code function(device_handle device, unsigned kind, unsigned *mhz)                                         \
    {                                                                                                             \
        GPU_CALL(device, kind <= 2 && mhz);                                                                       \
        return fake_value32(target.gpu, kind == 2 ? "clock_mem" suffix : "clock_sm" suffix, mhz);                 \
    }
CLOCK(nvmlDeviceGetClockInfo, "")
CLOCK(nvmlDeviceGetMaxClockInfo, "_max")

API code nvmlDeviceGetEccMode(device_handle device, unsigned *current, unsigned *pending)
{
    GPU_CALL(device, current && pending);
    RETURN_IF(fake_value32(target.gpu, "ecc", current));
    *pending = *current;
    return SUCCESS;
}

API code nvmlDeviceGetTotalEccErrors(device_handle device, unsigned uncorrected, unsigned aggregate, uint64_t *count)
{
    static const char *const keys[2][2] = {{"ecc_volatile_corrected", "ecc_aggregate_corrected"},
                                           {"ecc_volatile_uncorrected", "ecc_aggregate_uncorrected"}};
    GPU_CALL(device, uncorrected <= 1 && aggregate <= 1 && count);
    uint64_t mode;
    RETURN_IF(fake_number(target.gpu, "ecc", &mode) && mode ? SUCCESS : NOT_SUPPORTED);
    return fake_value64(target.gpu, keys[uncorrected][aggregate], count);
}
