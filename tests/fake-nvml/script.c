/* The script: lines `key = value`, reread when the file changes. README.md lists the keys. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "fake.h"

#define NONE UINT64_MAX
#define GIB (1ull << 30)
#define MIB (1ull << 20)

/* Defaults: GPU I has the value base + (I * step) % range. Models are one with 80 GiB of HBM and an older one. */
static const struct fallback {
    const char *key;
    uint64_t base, step, range;
} fallbacks[] = {
#ifdef OLD_DRIVER
    {"memory_total", 32480 * MIB, 0, 1},
    {"pcie_gen", 3, 0, 1},
    {"pcie_gen_max", 3, 0, 1},
    {"power_limit_mw", 300000, 0, 1},
    {"clock_sm", 1290, 0, 1},
    {"clock_sm_max", 1530, 0, 1},
    {"clock_mem", 877, 0, 1},
    {"clock_mem_max", 877, 0, 1},
#else
    {"memory_total", 81559 * MIB, 0, 1},
    {"pcie_gen", 5, 0, 1},
    {"pcie_gen_max", 5, 0, 1},
    {"power_limit_mw", 700000, 0, 1},
    {"clock_sm", 1755, 0, 1},
    {"clock_sm_max", 1980, 0, 1},
    {"clock_mem", 2619, 0, 1},
    {"clock_mem_max", 2619, 0, 1},
#endif
    {"memory_used", GIB, GIB, 16 * GIB},
    {"memory_reserved", 551 * MIB, 0, 1},
    {"memory_free", NONE, 0, 1}, /* total minus used and reserved */
    {"util_gpu", 20, 13, 80},
    {"util_mem", 10, 7, 60},
    {"temp", 40, 3, 30},
    {"temp_mem", 50, 3, 30},
    {"power_mw", 150000, 11000, 140000},
    {"energy_mj", 1000000000, 1234567, 1000000000},
    {"fan", NONE, 0, 1}, /* such GPUs are cooled by fans of the host */
    {"fans", NONE, 0, 1},
    {"pstate", 0, 0, 1},
    {"reasons", 0, 0, 1},
    {"ecc", 1, 0, 1},
    {"ecc_volatile_corrected", 0, 0, 1},
    {"ecc_volatile_uncorrected", 0, 0, 1},
    {"ecc_aggregate_corrected", 0, 0, 1},
    {"ecc_aggregate_uncorrected", 0, 0, 1},
    {"remapped_corrected", 0, 0, 1},
    {"remapped_uncorrected", 0, 0, 1},
    {"remapped_pending", 0, 0, 1},
    {"remapped_failure", 0, 0, 1},
    {"throttle_power_ns", 0, 0, 1},
    {"throttle_sync_ns", 0, 0, 1},
    {"throttle_sw_thermal_ns", 0, 0, 1},
    {"throttle_hw_thermal_ns", 0, 0, 1},
    {"throttle_hw_brake_ns", 0, 0, 1},
    {"throttle_thermal_ns", 0, 0, 1},
    {"throttle_board_ns", 0, 0, 1},
    {"throttle_low_util_ns", 0, 0, 1},
    {"throttle_reliability_ns", 0, 0, 1},
    {"throttle_app_clocks_ns", 0, 0, 1},
    {"throttle_base_clocks_ns", 0, 0, 1},
    {"power_instant_mw", 160000, 11000, 140000},
    {"power_module_mw", NONE, 0, 1},
    {"thermal_margin", 40, 0, 1},
    {"recovery_action", 0, 0, 1},
#ifdef OLD_DRIVER
    {"retired_sbe", 0, 0, 1},
    {"retired_dbe", 0, 0, 1},
    {"retired_pending", 0, 0, 1},
#else
    {"retired_sbe", NONE, 0, 1},
    {"retired_dbe", NONE, 0, 1},
    {"retired_pending", NONE, 0, 1},
#endif
    {"banks_max", 640, 0, 1},
    {"banks_high", 0, 0, 1},
    {"banks_partial", 0, 0, 1},
    {"banks_low", 0, 0, 1},
    {"banks_none", 0, 0, 1},
    {"sram_corrected", 0, 0, 1},
    {"sram_uncorrected", 0, 0, 1},
    {"sram_threshold", 0, 0, 1},
    {"persistence", 1, 0, 1},
    {"license", 0, 0, 1},
    {"fabric_state", 0, 0, 1},
    {"fabric_status", 0, 0, 1},
    {"fabric_clique", 0, 0, 1},
    {"fabric_mask", 0, 0, 1},
    {"fabric_summary", 0, 0, 1},
    {"fabric_version", 3, 0, 1},
    {"pcie_errors", 0, 0, 1},
    {"c2c_links", 0, 0, 1},
    {"c2c_mbps", 0, 0, 1},
    {"c2c_errors", 0, 0, 1},
    {"nvlink_kib_per_s", 0, 0, 1},
    {"nvlink5", NONE, 0, 1},
    {"nvlink5_ber", 0xFFF, 0, 1},
    {"gpm", 1, 0, 1},
    {"pcie_width", 16, 0, 1},
    {"pcie_width_max", 16, 0, 1},
    {"pcie_replay", 0, 0, 1},
    {"enc", 0, 0, 1},
    {"dec", 0, 0, 1},
    {"nvlinks", MAX_LINKS, 0, 1},
    {"nvlink_errors", 0, 0, 1},
    {"mig", NONE, 0, 1},
    {"mig_instances", 0, 0, 1},
};
static const char *const texts[] = {"name", "uuid", "pci", "processes", "graphics", "platform", "gpm_metrics"};
static const char *const settings[] = {"gpus", "driver", "cuda", "init", "lost", "gone", "xid", "log", "cc", "cc_ready"};
static const char *const rules[] = {"hang", "crash", "unsupported", "error", "slow"};

static struct line { char *key, *value; size_t number; } *lines; /* sorted, for a fast search: scripts can be long */
static size_t line_count;
static struct stat seen;
static const char *path;

/* Prints the error and aborts, so that an error in a script cannot be mistaken for a result of the test. */
void fake_abort(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "fake-nvml: %s: ", path ? path : "no script");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* tests must not leave core files */
    abort();
}

static uint64_t parse_number(const char *key, const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (end == text || *end || errno || *text == '-')
        fake_abort("%s: not a number: %s", key, text);
    return value;
}

static bool contains(const char *const *names, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}
#define IS_ONE_OF(names, name) contains(names, sizeof names / sizeof *names, name)

static const struct fallback *fallback_of(const char *key)
{
    for (size_t i = 0; i < sizeof fallbacks / sizeof *fallbacks; i++)
        if (strcmp(fallbacks[i].key, key) == 0)
            return &fallbacks[i];
    return NULL;
}

/* Splits `copy` in place at commas; returns the next item without blanks, or NULL at the end. */
static char *next_item(char **copy)
{
    char *item;
    do {
        item = strsep(copy, ",");
    } while (item && !item[strspn(item, " \t")]);
    if (!item)
        return NULL;
    item += strspn(item, " \t");
    size_t length = strlen(item);
    while (length && isspace((unsigned char)item[length - 1]))
        item[--length] = 0;
    return item;
}

static void check_functions(const struct line *line)
{
    extern const char *const __start_fake_entries[] __attribute__((visibility("hidden")));
    extern const char *const __stop_fake_entries[] __attribute__((visibility("hidden")));
    char *copy = strdup(line->value), *rest = copy, *item;
    bool with_code = strncmp(line->key, "error", 5) == 0 || strncmp(line->key, "slow", 4) == 0;
    while ((item = next_item(&rest))) {
        char *colon = strchr(item, ':');
        if (!colon == with_code)
            fake_abort("%s: expected FUNCTION%s, not %s", line->key, with_code ? ":NUMBER" : "", item);
        if (colon) {
            *colon = 0;
            parse_number(line->key, colon + 1);
        }
        const char *const *name = __start_fake_entries;
        while (name < __stop_fake_entries && strcmp(*name, item) != 0)
            name++;
        if (name == __stop_fake_entries)
            fake_abort("%s: unknown function %s", line->key, item);
    }
    free(copy);
}

static void check_numbers(const struct line *line)
{
    char *copy = strdup(line->value), *rest = copy, *item;
    while ((item = next_item(&rest)))
        parse_number(line->key, item);
    free(copy);
}

static void check(const struct line *line)
{
    char head[64], tail[64] = "";
    int used = 0, gpu = -1;
    if (sscanf(line->key, "%63[^.].%d%n", head, &gpu, &used) == 2 && (gpu < 0 || gpu >= MAX_GPUS))
        fake_abort("invalid GPU number %d", gpu);
    if (gpu < 0 ? strchr(line->key, '.') != NULL : line->key[used] && sscanf(line->key + used, ".%63s", tail) != 1)
        fake_abort("unknown key %s", line->key);
    bool numeric = fallback_of(tail) != NULL;
    bool known = strcmp(head, "gpu") == 0 && gpu >= 0 && tail[0] ? numeric || IS_ONE_OF(texts, tail)
                 : tail[0]                                       ? false
                 : IS_ONE_OF(rules, head)                        ? true
                                                                 : gpu < 0 && IS_ONE_OF(settings, head);
    if (!known)
        fake_abort("unknown key %s", line->key);
    if (numeric && strcmp(line->value, "none") != 0)
        parse_number(line->key, line->value);
    if (IS_ONE_OF(rules, head))
        check_functions(line);
    if (strcmp(head, "lost") == 0 || strcmp(head, "gone") == 0)
        check_numbers(line);
}

static char *trimmed(char *text)
{
    text += strspn(text, " \t");
    size_t length = strlen(text);
    while (length && isspace((unsigned char)text[length - 1]))
        length--;
    return strndup(text, length);
}

static void read_lines(FILE *file)
{
    for (size_t i = 0; i < line_count; i++) {
        free(lines[i].key);
        free(lines[i].value);
    }
    line_count = 0;
    char *text = NULL;
    size_t size = 0;
    while (getline(&text, &size, file) >= 0) {
        text[strcspn(text, "#\n")] = 0;
        if (!text[strspn(text, " \t\r")])
            continue;
        char *equals = strchr(text, '=');
        if (!equals)
            fake_abort("not `key = value`: %s", text);
        *equals = 0;
        lines = realloc(lines, (line_count + 1) * sizeof *lines);
        lines[line_count] = (struct line){trimmed(text), trimmed(equals + 1), line_count};
        check(&lines[line_count++]);
    }
    free(text);
}

/* Sorts by key. The stable order of equal keys is that of the file. */
static int compare(const void *a, const void *b)
{
    const struct line *left = a, *right = b;
    int order = strcmp(left->key, right->key);
    return order ? order : (left->number > right->number) - (left->number < right->number);
}

/* Called on every entry, so that changes of the script take effect in a running process. */
void fake_reload(void)
{
    path = getenv("HM_FAKE_NVML");
    if (!path)
        return;
    struct stat now;
    if (stat(path, &now) != 0)
        fake_abort("%s", strerror(errno));
    if (now.st_ino == seen.st_ino && now.st_size == seen.st_size && now.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    FILE *file = fopen(path, "re");
    /* Of the opened file, so that a change after the first stat is noticed next time. */
    if (!file || fstat(fileno(file), &seen) != 0)
        fake_abort("%s", strerror(errno));
    read_lines(file);
    fclose(file);
    if (line_count)
        qsort(lines, line_count, sizeof *lines, compare);
}

const char *fake_line(const char *key)
{
    size_t low = 0, high = line_count;
    while (low < high) { /* the first line with a greater key */
        size_t middle = low + (high - low) / 2;
        if (strcmp(lines[middle].key, key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low && strcmp(lines[low - 1].key, key) == 0 ? lines[low - 1].value : NULL; /* of equal keys the last */
}

uint64_t fake_setting(const char *key, uint64_t fallback)
{
    const char *text = fake_line(key);
    return text ? parse_number(key, text) : fallback;
}

bool fake_number(int gpu, const char *key, uint64_t *value)
{
    char full[80];
    snprintf(full, sizeof full, "gpu.%d.%s", gpu, key);
    const char *text = fake_line(full);
    const struct fallback *fallback = fallback_of(key);
    if (!fallback)
        fake_abort("bug in fake-nvml: undeclared key %s", key);
    if (text && strcmp(text, "none") == 0)
        return false;
    if (!text && fallback->base == NONE)
        return false;
    *value = text ? parse_number(full, text) : fallback->base + (unsigned)gpu * fallback->step % fallback->range;
    return true;
}

void fake_text(int gpu, const char *key, char text[128])
{
    char full[80];
    snprintf(full, sizeof full, "gpu.%d.%s", gpu, key);
    const char *line = fake_line(full);
    if (line)
        snprintf(text, 128, "%s", line);
    else if (strcmp(key, "name") == 0)
#ifdef OLD_DRIVER
        snprintf(text, 128, "Tesla V100-SXM2-32GB");
#else
        snprintf(text, 128, "NVIDIA H100 80GB HBM3");
#endif
    else if (strcmp(key, "uuid") == 0)
        snprintf(text, 128, "GPU-%08x-fa4e-4fa4-8fa4-%012x", 0xfa4e0000u + (unsigned)gpu, (unsigned)gpu);
    else if (strcmp(key, "pci") == 0)
        snprintf(text, 128, "00000000:%02X:00.0", 0x10u + (unsigned)gpu);
    else
        text[0] = 0;
}

/* -1 if the list does not contain the item; otherwise the number after its colon, or 0 without one. */
int64_t fake_listed(const char *key, const char *item)
{
    const char *list = fake_line(key);
    if (!list)
        return -1;
    char *copy = strdup(list), *rest = copy, *entry;
    int64_t found = -1;
    while (found < 0 && (entry = next_item(&rest))) {
        char *colon = strchr(entry, ':');
        if (colon)
            *colon = 0;
        if (strcmp(entry, item) == 0)
            found = colon ? (int64_t)parse_number(key, colon + 1) : 0;
    }
    free(copy);
    return found;
}

bool fake_is_lost(int gpu)
{
    char number[16];
    snprintf(number, sizeof number, "%d", gpu);
    return fake_listed("lost", number) >= 0;
}

bool fake_is_there(int gpu)
{
    uint64_t gpus = fake_setting("gpus", 1);
    if (gpus > MAX_GPUS)
        fake_abort("gpus: at most %d", MAX_GPUS);
    char number[16];
    snprintf(number, sizeof number, "%d", gpu);
    return (uint64_t)gpu < gpus && fake_listed("gone", number) < 0;
}

int fake_gpu_at(unsigned index)
{
    for (int gpu = 0; gpu < MAX_GPUS; gpu++)
        if (fake_is_there(gpu) && index-- == 0)
            return gpu;
    return -1;
}

unsigned fake_count(void)
{
    unsigned count = 0;
    while (fake_gpu_at(count) >= 0)
        count++;
    return count;
}

unsigned fake_index_of(int gpu)
{
    unsigned index = 0;
    for (int other = 0; other < gpu; other++)
        index += fake_is_there(other);
    return index;
}

unsigned fake_instances(int gpu)
{
    uint64_t mode, count;
    if (!fake_number(gpu, "mig", &mode) || !mode || !fake_number(gpu, "mig_instances", &count))
        return 0;
    return count < MAX_INSTANCES ? (unsigned)count : MAX_INSTANCES;
}
