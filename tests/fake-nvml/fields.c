/* Field values and NVLink. */
#include <stdio.h>
#include <time.h>

#include "fake.h"

enum { UNSIGNED_INT = 1, UNSIGNED_LONG_LONG = 3 }; /* value types */
#define ALL_LINKS 0xFFFFFFFFu

/*
 * Before driver 580.82 the throttle counters are fields 251 to 253. That version reused these IDs and moved the counters
 * to 269 to 271; nvml-wrapper selects the IDs by driver version.
 */
static unsigned first_throttle_field(void)
{
    const char *driver = fake_line("driver");
    unsigned major = 0, minor = 0;
    if (driver)
        sscanf(driver, "%u.%u", &major, &minor);
    return major > 580 || (major == 580 && minor >= 82) ? 269 : 251;
}

static code links(int gpu, unsigned *count)
{
    RETURN_IF(fake_value32(gpu, "nvlinks", count));
    if (*count > MAX_LINKS)
        *count = MAX_LINKS;
    return SUCCESS;
}

/* Whether the link exists, and whether it is up. */
static code link_up(int gpu, unsigned link, bool *up)
{
    unsigned count;
    RETURN_IF(links(gpu, &count));
    if (link >= MAX_LINKS)
        return INVALID_ARGUMENT;
    *up = link < count;
    return SUCCESS;
}

static code of_link_that_is_up(int gpu, unsigned link)
{
    bool up;
    RETURN_IF(link_up(gpu, link, &up));
    return up ? SUCCESS : NOT_SUPPORTED;
}

/* Fields from 32 on: four groups of seven, for links 0 to 5 and their sum. The script has one value for all counters. */
static code link_counter(int gpu, unsigned id, uint64_t *value)
{
    unsigned link = (id - 32) % 7, count;
    RETURN_IF(links(gpu, &count));
    if (link < 6)
        RETURN_IF(of_link_that_is_up(gpu, link));
    RETURN_IF(fake_value64(gpu, "nvlink_errors", value));
    *value *= link < 6 ? 1 : count;
    return SUCCESS;
}

static code c2c_link(int gpu, unsigned link)
{
    unsigned count;
    RETURN_IF(fake_value32(gpu, "c2c_links", &count));
    return link < count ? SUCCESS : INVALID_ARGUMENT;
}

/* A counter that grows with the time. All links together and each of them have the same rate, of which receiving is half. */
static code throughput(int gpu, unsigned id, unsigned scope, uint64_t *value)
{
    uint64_t rate;
    if (scope != ALL_LINKS)
        RETURN_IF(of_link_that_is_up(gpu, scope));
    RETURN_IF(fake_value64(gpu, "nvlink_kib_per_s", &rate));
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    *value = (uint64_t)(seconds * (double)rate) / (id == 139 ? 2 : 1);
    return SUCCESS;
}

/* Counters of NVLink 5: all links have the same, and each counter another one. */
static code nvlink5(int gpu, unsigned id, unsigned link, uint64_t *value)
{
    unsigned count = 1;
    if (link == ALL_LINKS)
        RETURN_IF(links(gpu, &count));
    else
        RETURN_IF(of_link_that_is_up(gpu, link));
    RETURN_IF(fake_value64(gpu, "nvlink5", value));
    if (id == 220 || id == 222)
        return fake_value64(gpu, "nvlink5_ber", value);
    *value = (*value + id - 201) * count;
    return SUCCESS;
}

static code small_field(int gpu, unsigned id, unsigned scope, unsigned *value)
{
    bool up;
    switch (id) {
    case 1:
    case 2:
        return fake_value32(gpu, "ecc", value);
    case 82:
        return fake_value32(gpu, "temp_mem", value);
    case 91:
        *value = MAX_LINKS;
        return links(gpu, &(unsigned){0});
    case 94:
        return fake_value32(gpu, "pcie_replay", value);
    case 142:
        return fake_value32(gpu, "remapped_corrected", value);
    case 143:
        return fake_value32(gpu, "remapped_uncorrected", value);
    case 144:
        return fake_value32(gpu, "remapped_pending", value);
    case 145:
        return fake_value32(gpu, "remapped_failure", value);
    case 29:
        return fake_value32(gpu, "retired_sbe", value);
    case 30:
        return fake_value32(gpu, "retired_dbe", value);
    case 31:
        return fake_value32(gpu, "retired_pending", value);
    case 165:
        RETURN_IF(link_up(gpu, scope, &up));
        *value = up;
        return SUCCESS;
    case 170:
        return fake_value32(gpu, "c2c_links", value);
    case 171:
    case 172:
        RETURN_IF(c2c_link(gpu, scope));
        RETURN_IF(fake_value32(gpu, "c2c_mbps", value));
        *value = id == 171 ? *value != 0 : *value;
        return SUCCESS;
    case 185:
        return fake_value32(gpu, "power_mw", value);
    case 186:
        return scope > 1 ? NOT_SUPPORTED : fake_value32(gpu, scope ? "power_module_mw" : "power_instant_mw", value);
    case 230:
        return fake_value32(gpu, "recovery_action", value);
    case 231:
    case 232:
    case 233:
        RETURN_IF(c2c_link(gpu, scope));
        RETURN_IF(fake_value32(gpu, "c2c_errors", value));
        *value += id - 231;
        return SUCCESS;
    default:
        return NOT_SUPPORTED;
    }
}

static code large_field(int gpu, unsigned id, unsigned scope, uint64_t *value)
{
    static const char *const ecc[] = {"ecc_volatile_corrected", "ecc_volatile_uncorrected", "ecc_aggregate_corrected",
                                      "ecc_aggregate_uncorrected"};
    static const char *const throttle[] = {"throttle_sw_thermal_ns", "throttle_hw_thermal_ns", "throttle_hw_brake_ns"};
    static const char *const policies[] = {"throttle_power_ns",      "throttle_thermal_ns",    "throttle_sync_ns",
                                           "throttle_board_ns",      "throttle_low_util_ns",   "throttle_reliability_ns",
                                           "throttle_app_clocks_ns", "throttle_base_clocks_ns"};
    unsigned first = first_throttle_field();
    if (id >= 3 && id <= 6)
        return fake_value64(gpu, ecc[id - 3], value);
    if (id >= 32 && id <= 59)
        return link_counter(gpu, id, value);
    if (id >= 74 && id <= 81)
        return fake_value64(gpu, policies[id - 74], value);
    if (id == 83)
        return fake_value64(gpu, "energy_mj", value);
    if (id >= 161 && id <= 163) {
        RETURN_IF(of_link_that_is_up(gpu, scope));
        return fake_value64(gpu, "nvlink_errors", value);
    }
    if (id == 138 || id == 139)
        return throughput(gpu, id, scope, value);
    if (id >= 173 && id <= 183) {
        RETURN_IF(fake_value64(gpu, "pcie_errors", value));
        *value += id - 173;
        return SUCCESS;
    }
    if (id >= 201 && id <= 222)
        return nvlink5(gpu, id, scope, value);
    /* Power smoothing, which reused the IDs: a value that no test mistakes for a time. */
    if (id >= 251 && id <= 253 && first != 251) {
        *value = 7;
        return SUCCESS;
    }
    if (id >= first && id - first < 3)
        return fake_value64(gpu, throttle[id - first], value);
    return NOT_SUPPORTED;
}

API code nvmlDeviceGetFieldValues(device_handle device, int count, struct field_value *values)
{
    GPU_CALL(device, count > 0 && values);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (struct field_value *field = values; field < values + count; field++) {
        field->timestamp_us = now.tv_sec * 1000000ll + now.tv_nsec / 1000;
        field->latency_us = 1;
        if (field->id == 0 || field->id >= FIELD_IDS) {
            field->result = INVALID_ARGUMENT;
            continue;
        }
        field->type = UNSIGNED_INT;
        field->result = small_field(target.gpu, field->id, field->scope, &field->value.small);
        if (field->result == NOT_SUPPORTED) {
            field->type = UNSIGNED_LONG_LONG;
            field->result = large_field(target.gpu, field->id, field->scope, &field->value.large);
        }
    }
    return SUCCESS;
}

API code nvmlDeviceGetNvLinkState(device_handle device, unsigned link, unsigned *active)
{
    GPU_CALL(device, active);
    bool up;
    RETURN_IF(link_up(target.gpu, link, &up));
    *active = up;
    return SUCCESS;
}

API code nvmlDeviceGetNvLinkErrorCounter(device_handle device, unsigned link, unsigned counter, uint64_t *count)
{
    GPU_CALL(device, counter <= 4 && count);
    RETURN_IF(of_link_that_is_up(target.gpu, link));
    return fake_value64(target.gpu, "nvlink_errors", count);
}

/* All links are connected to switches. */
static code remote(int gpu, unsigned link, struct pci_info *pci)
{
    RETURN_IF(of_link_that_is_up(gpu, link));
    *pci = (struct pci_info){.bus = 0xC4 + link % 4, .device_id = 0x22A310DE};
    fake_pci_ids(pci);
    return SUCCESS;
}

API code nvmlDeviceGetNvLinkRemotePciInfo_v2(device_handle device, unsigned link, struct pci_info *pci)
{
    GPU_CALL(device, pci);
    return remote(target.gpu, link, pci);
}

API code nvmlDeviceGetNvLinkVersion(device_handle device, unsigned link, unsigned *version)
{
    GPU_CALL(device, version);
    RETURN_IF(of_link_that_is_up(target.gpu, link));
#ifdef OLD_DRIVER
    *version = 2; /* NVLink 2.0 */
#else
    *version = 6; /* NVLink 4.0; the values are those of an enum */
#endif
    return SUCCESS;
}

/* P2P, P2P atomics and a valid link; no access to host memory. */
API code nvmlDeviceGetNvLinkCapability(device_handle device, unsigned link, unsigned capability, unsigned *has)
{
    GPU_CALL(device, capability <= 5 && has);
    RETURN_IF(of_link_that_is_up(target.gpu, link));
    *has = capability == 0 || capability == 2 || capability == 5;
    return SUCCESS;
}
