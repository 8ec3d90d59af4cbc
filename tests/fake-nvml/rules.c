/* Rules applied on entry of every function: log, hang, crash, return an error. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "fake.h"

/* NVML is thread-safe. hang() releases the lock, so that a hanging thread does not block the others. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned initializations;
/* Handles are addresses in this array: for each GPU one for itself and one for each MIG instance. */
static char handles[MAX_GPUS][1 + MAX_INSTANCES];

bool fake_lock(void)
{
    pthread_mutex_lock(&mutex);
    fake_reload();
    return true;
}

void fake_unlock(const bool *locked)
{
    (void)locked;
    pthread_mutex_unlock(&mutex);
}

device_handle fake_handle(struct target target)
{
    return (device_handle)&handles[target.gpu][1 + target.instance];
}

code fake_target(device_handle handle, struct target *target)
{
    uintptr_t offset = (uintptr_t)handle - (uintptr_t)handles;
    if (offset >= sizeof handles)
        return INVALID_ARGUMENT;
    target->gpu = (int)(offset / sizeof *handles);
    target->instance = (int)(offset % sizeof *handles) - 1;
    return SUCCESS;
}

static void append_to_log(const char *entry, struct target target)
{
    const char *path = fake_line("log");
    if (!path)
        return;
    char line[128];
    int length = target.gpu < 0        ? snprintf(line, sizeof line, "%s -\n", entry)
                 : target.instance < 0 ? snprintf(line, sizeof line, "%s %d\n", entry, target.gpu)
                                       : snprintf(line, sizeof line, "%s %d.%d\n", entry, target.gpu, target.instance);
    int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0 || write(file, line, (size_t)length) != length)
        fake_abort("log: cannot write %s", path);
    close(file);
}

/* Simulates a call that is blocked in the kernel: only SIGKILL ends the thread. */
static _Noreturn void hang(void)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    pthread_mutex_unlock(&mutex);
    for (;;)
        pause();
}

/* Releases the lock meanwhile, like hang(). */
static void delay(int64_t milliseconds)
{
    pthread_mutex_unlock(&mutex);
    nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
    pthread_mutex_lock(&mutex);
    fake_reload();
}

/* The host's handler may return and expect the fault to repeat, as Rust's stack overflow handler does. A raised signal does
 * not repeat, so the handler is removed. */
static _Noreturn void crash(void)
{
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* tests must not leave core files */
    signal(SIGSEGV, SIG_DFL);
    sigset_t segv;
    sigemptyset(&segv);
    sigaddset(&segv, SIGSEGV);
    pthread_sigmask(SIG_UNBLOCK, &segv, NULL);
    raise(SIGSEGV);
    abort();
}

/* A rule for this GPU overrides one for all. */
static int64_t ruled(const char *rule, const char *entry, int gpu)
{
    char key[32];
    snprintf(key, sizeof key, "%s.%d", rule, gpu);
    int64_t found = gpu < 0 ? -1 : fake_listed(key, entry);
    return found < 0 ? fake_listed(rule, entry) : found;
}

code fake_rules(const char *entry, struct target target)
{
    append_to_log(entry, target);
    if (ruled("hang", entry, target.gpu) >= 0)
        hang();
    if (ruled("crash", entry, target.gpu) >= 0)
        crash();
    int64_t slow = ruled("slow", entry, target.gpu);
    if (slow > 0)
        delay(slow);
    int64_t error = ruled("error", entry, target.gpu);
    if (error >= 0)
        return (code)error;
    return ruled("unsupported", entry, target.gpu) < 0 ? SUCCESS : NOT_SUPPORTED;
}

code fake_enter(const char *entry, struct target target)
{
    RETURN_IF(fake_rules(entry, target));
    if (initializations == 0)
        return UNINITIALIZED;
    /* Handles of a GPU that was removed behave like those of a lost one. */
    if (target.gpu >= 0 && (fake_is_lost(target.gpu) || !fake_is_there(target.gpu)))
        return GPU_IS_LOST;
    if (target.instance >= (target.gpu < 0 ? 0 : (int)fake_instances(target.gpu)))
        return INVALID_ARGUMENT;
    return SUCCESS;
}

code fake_init(void)
{
    code result = (code)fake_setting("init", SUCCESS);
    if (result == SUCCESS)
        initializations++;
    return result;
}

code fake_shutdown(void)
{
    initializations--; /* fake_enter returns an error if there was none */
    return SUCCESS;
}

code fake_value64(int gpu, const char *key, uint64_t *out)
{
    return fake_number(gpu, key, out) ? SUCCESS : NOT_SUPPORTED;
}

code fake_value32(int gpu, const char *key, unsigned *out)
{
    uint64_t value;
    RETURN_IF(fake_value64(gpu, key, &value));
    *out = (unsigned)value;
    return SUCCESS;
}

code fake_version(unsigned found, unsigned size, unsigned number)
{
    return found == (size | number << 24) ? SUCCESS : VERSION_MISMATCH;
}

code fake_string(const char *text, char *buffer, unsigned length)
{
    if (strlen(text) >= length)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}
