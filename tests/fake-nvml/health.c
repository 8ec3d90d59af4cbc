/* States that change rarely: fabric, spare rows, SRAM errors, confidential computing, license, place in the rack. */
#include <stdio.h>
#include <string.h>

#include "fake.h"

#ifndef OLD_DRIVER
/* `fabric_version` is the newest version of the struct that the driver knows. */
API code nvmlDeviceGetGpuFabricInfoV(device_handle device, struct fabric_v3 *info)
{
    GPU_CALL(device, info);
    unsigned newest, state, summary;
    RETURN_IF(fake_value32(target.gpu, "fabric_version", &newest));
    bool is_v3 = newest >= 3 && fake_version(info->v2.version, sizeof *info, 3) == SUCCESS;
    if (!is_v3)
        RETURN_IF(fake_version(info->v2.version, sizeof info->v2, 2));
    RETURN_IF(fake_value32(target.gpu, "fabric_state", &state));
    info->v2.state = (unsigned char)state;
    for (unsigned i = 0; i < sizeof info->v2.cluster; i++)
        info->v2.cluster[i] = (unsigned char)(0xA0 + i);
    RETURN_IF(fake_value32(target.gpu, "fabric_status", &info->v2.status));
    RETURN_IF(fake_value32(target.gpu, "fabric_clique", &info->v2.clique));
    RETURN_IF(fake_value32(target.gpu, "fabric_mask", &info->v2.health_mask));
    RETURN_IF(fake_value32(target.gpu, "fabric_summary", &summary));
    if (is_v3)
        info->health_summary = (unsigned char)summary;
    return SUCCESS;
}

API code nvmlDeviceGetRowRemapperHistogram(device_handle device, struct row_banks *banks)
{
    GPU_CALL(device, banks);
    RETURN_IF(fake_value32(target.gpu, "banks_max", &banks->max));
    RETURN_IF(fake_value32(target.gpu, "banks_high", &banks->high));
    RETURN_IF(fake_value32(target.gpu, "banks_partial", &banks->partial));
    RETURN_IF(fake_value32(target.gpu, "banks_low", &banks->low));
    return fake_value32(target.gpu, "banks_none", &banks->none);
}

/* Errors over the lifetime are ten more than those since the driver was loaded; uncorrected ones are of both kinds. */
API code nvmlDeviceGetSramEccErrorStatus(device_handle device, struct sram_errors *errors)
{
    GPU_CALL(device, errors);
    RETURN_IF(fake_version(errors->version, sizeof *errors, 1));
    uint64_t corrected, uncorrected;
    RETURN_IF(fake_value64(target.gpu, "sram_corrected", &corrected));
    RETURN_IF(fake_value64(target.gpu, "sram_uncorrected", &uncorrected));
    RETURN_IF(fake_value32(target.gpu, "sram_threshold", &errors->threshold_exceeded));
    errors->volatile_corrected = corrected;
    errors->aggregate_corrected = corrected + 10;
    errors->volatile_parity = uncorrected / 2;
    errors->volatile_secded = uncorrected - uncorrected / 2;
    errors->aggregate_parity = errors->volatile_parity + 4;
    errors->aggregate_secded = errors->volatile_secded + 6;
    return SUCCESS;
}

API code nvmlDeviceGetMarginTemperature(device_handle device, struct margin *margin)
{
    GPU_CALL(device, margin);
    RETURN_IF(fake_version(margin->version, sizeof *margin, 1));
    unsigned celsius;
    RETURN_IF(fake_value32(target.gpu, "thermal_margin", &celsius));
    margin->celsius = (int)celsius;
    return SUCCESS;
}

static code conf_compute(const char *key, unsigned *value)
{
    RETURN_IF(fake_line(key) ? SUCCESS : NOT_SUPPORTED);
    *value = (unsigned)fake_setting(key, 0);
    return SUCCESS;
}

API code nvmlSystemGetConfComputeState(struct cc_state *state)
{
    GLOBAL_CALL(state);
    *state = (struct cc_state){0};
    return conf_compute("cc", &state->feature);
}

API code nvmlSystemGetConfComputeGpusReadyState(unsigned *ready)
{
    GLOBAL_CALL(ready);
    return conf_compute("cc_ready", ready);
}

/* `license` is 0 for a GPU that needs none, 1 for a licensed and 2 for an unlicensed vGPU. */
API code nvmlDeviceGetGridLicensableFeatures_v4(device_handle device, struct licenses *licenses)
{
    GPU_CALL(device, licenses);
    unsigned state;
    RETURN_IF(fake_value32(target.gpu, "license", &state));
    memset(licenses, 0, sizeof *licenses);
    if (state) {
        licenses->supported = 1;
        licenses->count = 1;
        licenses->features[0].feature = 1;
        licenses->features[0].state = state == 1;
    }
    return SUCCESS;
}

/* `platform` is CHASSIS:SLOT:TRAY:HOST:PEER:MODULE. */
API code nvmlDeviceGetPlatformInfo(device_handle device, struct platform *platform)
{
    GPU_CALL(device, platform);
    RETURN_IF(fake_version(platform->version, sizeof *platform, 2));
    char text[128], chassis[17];
    unsigned numbers[5];
    fake_text(target.gpu, "platform", text);
    if (!*text)
        return NOT_SUPPORTED;
    if (sscanf(text, "%16[^:]:%u:%u:%u:%u:%u", chassis, &numbers[0], &numbers[1], &numbers[2], &numbers[3],
               &numbers[4]) != 6)
        fake_abort("platform: wants CHASSIS:SLOT:TRAY:HOST:PEER:MODULE, not %s", text);
    memset(platform->chassis, 0, sizeof platform->chassis);
    memcpy(platform->chassis, chassis, strlen(chassis));
    platform->slot = (unsigned char)numbers[0];
    platform->tray = (unsigned char)numbers[1];
    platform->host = (unsigned char)numbers[2];
    platform->peer_type = (unsigned char)numbers[3];
    platform->module = (unsigned char)numbers[4];
    return SUCCESS;
}
#endif

API code nvmlDeviceGetPersistenceMode(device_handle device, unsigned *mode)
{
    GPU_CALL(device, mode);
    return fake_value32(target.gpu, "persistence", mode);
}
