/* For LD_PRELOAD: adds the number of seconds in the file HM_TEST_CLOCK to CLOCK_REALTIME. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    const char *name = getenv("HM_TEST_CLOCK");
    FILE *file = clock == CLOCK_REALTIME && name ? fopen(name, "re") : NULL;
    long seconds = 0;
    if (file) {
        if (fscanf(file, "%ld", &seconds) == 1)
            now->tv_sec += seconds;
        fclose(file);
    }
    return result;
}
