/*
 * Shared declarations: the part of NVML's binary interface that the fake implements, and the code on entry of every
 * function. The sizes below are those of the structs in the crate nvml-wrapper-sys 0.10.
 */
#ifndef FAKE_H
#define FAKE_H

#include <stdbool.h>
#include <stdint.h>

/* Only NVML functions are exported, so that scripts cannot name a helper and no symbol conflicts with the host. */
#define API __attribute__((visibility("default")))
#pragma GCC visibility push(hidden)

typedef unsigned int code;
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    OUT_OF_MEMORY = 20,
    VERSION_MISMATCH = 25,
};

#define MAX_GPUS 64
#define MAX_INSTANCES 7 /* per GPU in MIG mode */
#define NO_INSTANCE_ID 0xFFFFFFFFu
#define NOT_AVAILABLE UINT64_MAX
#define EVENT_XID 8u

#ifdef OLD_DRIVER
#define MAX_LINKS 6
#define FIELD_IDS 94 /* one more than the last field of such a driver */
#else
#define MAX_LINKS 18
#define FIELD_IDS 274
#endif

typedef struct device *device_handle;
typedef struct event_set *set_handle;
typedef struct gpm_sample *sample_handle;

struct pci_info {
    char short_id[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char id[32];
};
struct memory_v1 { uint64_t total, free, used; };
struct memory_v2 { unsigned version; uint64_t total, reserved, free, used; };
struct utilization { unsigned gpu, memory; };
struct process_v1 { unsigned pid; uint64_t bytes; };
struct process_v2 { unsigned pid; uint64_t bytes; unsigned gpu_instance, compute_instance; };
struct attributes {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
    uint64_t memory_mib;
};
union value { double real; unsigned small; uint64_t large; };
struct field_value {
    unsigned id, scope;
    int64_t timestamp_us, latency_us;
    unsigned type;
    code result;
    union value value;
};
struct fabric_v2 {
    unsigned version;
    unsigned char cluster[16];
    code status;
    unsigned clique;
    unsigned char state;
    unsigned health_mask;
};
struct fabric_v3 {
    struct fabric_v2 v2;
    unsigned char health_summary;
};
struct row_banks { unsigned max, high, partial, low, none; };
struct sram_errors {
    unsigned version;
    uint64_t aggregate_parity, aggregate_secded, aggregate_corrected, volatile_parity, volatile_secded, volatile_corrected;
    uint64_t l2, sm, pcie, mcu, other;
    unsigned threshold_exceeded;
};
struct margin { unsigned version; int celsius; };
struct license_expiry { unsigned year; unsigned short month, day, hour, minute, second; unsigned char status; };
struct license_feature {
    unsigned feature, state;
    char info[128], product[128];
    unsigned enabled;
    struct license_expiry expiry;
};
struct licenses { int supported; unsigned count; struct license_feature features[3]; };
struct platform {
    unsigned version;
    unsigned char ib_guid[16], chassis[16], slot, tray, host, peer_type, module;
};
struct cc_state { unsigned environment, feature, dev_tools; };
struct gpm_support { unsigned version, supported; };
struct gpm_metric { unsigned id; code result; double value; const char *short_name, *long_name, *unit; };
struct gpm_request { unsigned version, count; struct gpm_sample *before, *after; struct gpm_metric metrics[]; };
struct event_v1 { device_handle device; uint64_t type, data; };
struct event_v2 { device_handle device; uint64_t type, data; unsigned gpu_instance, compute_instance; };

_Static_assert(sizeof(struct pci_info) == 68, "nvmlPciInfo_t");
_Static_assert(sizeof(struct memory_v1) == 24, "nvmlMemory_t");
_Static_assert(sizeof(struct memory_v2) == 40, "nvmlMemory_v2_t");
_Static_assert(sizeof(struct utilization) == 8, "nvmlUtilization_t");
_Static_assert(sizeof(struct process_v1) == 16, "nvmlProcessInfo_v1_t");
_Static_assert(sizeof(struct process_v2) == 24, "nvmlProcessInfo_v2_t");
_Static_assert(sizeof(struct attributes) == 40, "nvmlDeviceAttributes_t");
_Static_assert(sizeof(struct field_value) == 40, "nvmlFieldValue_t");
_Static_assert(sizeof(struct fabric_v2) == 36, "nvmlGpuFabricInfo_v2_t");
_Static_assert(sizeof(struct fabric_v3) == 40, "nvmlGpuFabricInfo_v3_t");
_Static_assert(sizeof(struct sram_errors) == 104, "nvmlEccSramErrorStatus_v1_t");
_Static_assert(sizeof(struct license_expiry) == 16, "nvmlGridLicenseExpiry_t");
_Static_assert(sizeof(struct licenses) == 860, "nvmlGridLicensableFeatures_t");
_Static_assert(sizeof(struct platform) == 44, "nvmlPlatformInfo_v2_t");
_Static_assert(sizeof(struct gpm_metric) == 40, "nvmlGpmMetric_t");
_Static_assert(sizeof(struct event_v1) == 24, "nvmlEventData_t of drivers without nvmlEventSetWait_v2");
_Static_assert(sizeof(struct event_v2) == 32, "nvmlEventData_t");

/* A GPU, by its number in the script, or one of its MIG instances. */
struct target {
    int gpu;      /* -1: no particular one */
    int instance; /* -1: the whole GPU */
};

/*
 * Every function starts with one of these. They take the lock, which fake_unlock releases at any return, reread a changed
 * script and apply its rules for this function.
 *
 * The section contains the names of all functions, so that misspelt names in scripts are detected.
 */
#define ENTRY                                                                                                     \
    static const char *const entry __attribute__((section("fake_entries"), used)) = __func__;                     \
    bool locked __attribute__((cleanup(fake_unlock))) = fake_lock()
#define RETURN_IF(result)                                                                                         \
    do {                                                                                                          \
        code result_ = (result);                                                                                  \
        if (result_ != SUCCESS)                                                                                   \
            return result_;                                                                                       \
    } while (0)
#define GLOBAL_CALL(arguments_ok)                                                                                 \
    ENTRY;                                                                                                        \
    RETURN_IF(fake_enter(entry, (struct target){-1, -1}));                                                        \
    RETURN_IF((arguments_ok) ? SUCCESS : INVALID_ARGUMENT)
#define DEVICE_CALL(handle, arguments_ok)                                                                         \
    ENTRY;                                                                                                        \
    struct target target;                                                                                         \
    RETURN_IF(fake_target(handle, &target));                                                                      \
    RETURN_IF(fake_enter(entry, target));                                                                         \
    RETURN_IF((arguments_ok) ? SUCCESS : INVALID_ARGUMENT)
/* A function that is not supported for MIG instances. */
#define GPU_CALL(handle, arguments_ok)                                                                            \
    DEVICE_CALL(handle, arguments_ok);                                                                            \
    RETURN_IF(target.instance < 0 ? SUCCESS : NOT_SUPPORTED)

/* rules.c: rules applied on entry. */
bool fake_lock(void);
void fake_unlock(const bool *locked);
code fake_rules(const char *entry, struct target target);
code fake_enter(const char *entry, struct target target);
code fake_target(device_handle handle, struct target *target);
device_handle fake_handle(struct target target);
code fake_init(void);
code fake_shutdown(void);

/* script.c: the script and its defaults. The caller must hold the lock. */
void fake_reload(void);
const char *fake_line(const char *key); /* NULL if the script has no such line */
uint64_t fake_setting(const char *key, uint64_t fallback);
bool fake_number(int gpu, const char *key, uint64_t *value); /* false: `none`, not supported by this GPU */
void fake_text(int gpu, const char *key, char text[128]);
int64_t fake_listed(const char *key, const char *item);
bool fake_is_lost(int gpu);
bool fake_is_there(int gpu);
unsigned fake_count(void);          /* number of present GPUs */
int fake_gpu_at(unsigned index);    /* -1 if there is none */
unsigned fake_index_of(int gpu);
unsigned fake_instances(int gpu);   /* 0 without MIG mode */
_Noreturn void fake_abort(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Implements most functions: the number of a key, or NOT_SUPPORTED for `none`. */
code fake_value32(int gpu, const char *key, unsigned *out);
code fake_value64(int gpu, const char *key, uint64_t *out);
void fake_pci_ids(struct pci_info *pci); /* writes both strings from the numbers */
code fake_string(const char *text, char *buffer, unsigned length);
code fake_version(unsigned found, unsigned size, unsigned number); /* NVML_STRUCT_VERSION */

#endif
