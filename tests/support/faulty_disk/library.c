/* A disk that fails on demand, and a wall clock that steps: preloaded into a process (LD_PRELOAD).
 *
 * Calls that change files whose path starts with `below` are counted. From call number `first` to call
 * number `last` they do what `action` says. All of it stands in the file $FAULTY_DISK, which is mapped
 * and may change at any time. Everything else of the process goes to the C library untouched.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, TRUNCATE = 4, UNLINK = 8 };
enum { NOTHING, KILL_BEFORE, KILL_HALFWAY, KILL_AFTER, FAIL, FAIL_HALFWAY };

/* Mirrored by `_LAYOUT` in __init__.py. */
struct control {
    char below[256];
    uint64_t calls;    /* counted so far: those of `kinds` */
    uint64_t first, last;
    uint64_t hit;      /* calls to which `action` was done */
    uint64_t delay_us; /* before every counted call */
    int64_t wall_ns;   /* added to CLOCK_REALTIME */
    uint64_t synced;   /* successful syncs while `stops_after_sync` */
    uint64_t released; /* the process goes on when this has come up with `synced` */
    uint32_t kinds, action, error;
    uint32_t held;     /* while not 0, counted calls wait */
    uint32_t waiting;  /* calls that wait because of it */
    uint32_t stops_after_sync;
    char synced_path[256]; /* of the last of them */
};
_Static_assert(sizeof(struct control) == 600, "the Python side has this layout");

static struct control nothing;
static volatile struct control *control = &nothing;

__attribute__((constructor)) static void map_control(void)
{
    const char *path = getenv("FAULTY_DISK");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        control = at;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

static void pause_ms(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static int is_below(const char *path)
{
    size_t length = strlen((const char *)control->below);
    return length && strncmp(path, (const char *)control->below, length) == 0;
}

/* The path of an open file; "" when there is none. */
static void path_of(int fd, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    path[length < 0 ? 0 : length] = 0;
}

static int is_file_below(int fd)
{
    char path[512];
    if (!control->below[0])
        return 0;
    path_of(fd, path, sizeof path);
    return is_below(path);
}

/* Counts a call; what is to be done to it. */
static uint32_t turn(uint32_t kind)
{
    if (!(control->kinds & kind))
        return NOTHING;
    uint64_t number = __atomic_add_fetch(&control->calls, 1, __ATOMIC_SEQ_CST);
    uint64_t delay_us = control->delay_us;
    if (delay_us)
        nanosleep(&(struct timespec){.tv_sec = delay_us / 1000000, .tv_nsec = delay_us % 1000000 * 1000}, NULL);
    if (control->held) {
        __atomic_add_fetch(&control->waiting, 1, __ATOMIC_SEQ_CST);
        while (control->held)
            pause_ms();
        __atomic_sub_fetch(&control->waiting, 1, __ATOMIC_SEQ_CST);
    }
    if (number < control->first || number > control->last)
        return NOTHING;
    __atomic_add_fetch(&control->hit, 1, __ATOMIC_SEQ_CST);
    return control->action;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause_ms();
}

/* True when the call is not to be made; errno is set then. */
static int is_stopped(uint32_t action)
{
    if (action == KILL_BEFORE || action == KILL_HALFWAY)
        die();
    if (action == FAIL || action == FAIL_HALFWAY) {
        errno = (int)control->error;
        return 1;
    }
    return 0;
}

typedef ssize_t (*pwrite_call)(int, const void *, size_t, off64_t);

static ssize_t do_pwrite(pwrite_call real_pwrite, int fd, const void *data, size_t size, off64_t offset)
{
    uint32_t action = is_file_below(fd) ? turn(WRITE) : NOTHING;
    if (size > 1 && (action == KILL_HALFWAY || (action == FAIL_HALFWAY && control->hit == 1))) {
        ssize_t written = real_pwrite(fd, data, size / 2, offset);
        if (action == KILL_HALFWAY)
            die();
        return written;
    }
    if (is_stopped(action))
        return -1;
    ssize_t written = real_pwrite(fd, data, size, offset);
    if (action == KILL_AFTER)
        die();
    return written;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    return do_pwrite(REAL("pwrite64", pwrite_call), fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    return do_pwrite(REAL("pwrite64", pwrite_call), fd, data, size, offset);
}

/* A call on a descriptor that is done or not done, nothing between. */
#define WHOLE_CALL(kind, call)                                \
    do {                                                      \
        uint32_t action = is_file_below(fd) ? turn(kind) : NOTHING; \
        if (is_stopped(action))                               \
            return -1;                                        \
        int result = call;                                    \
        if (action == KILL_AFTER)                             \
            die();                                            \
        return result;                                        \
    } while (0)

int ftruncate64(int fd, off64_t size)
{
    WHOLE_CALL(TRUNCATE, REAL("ftruncate64", int (*)(int, off64_t))(fd, size));
}

int ftruncate(int fd, off_t size)
{
    WHOLE_CALL(TRUNCATE, REAL("ftruncate64", int (*)(int, off64_t))(fd, size));
}

static int then_stop(int fd, int result)
{
    if (result == 0 && control->stops_after_sync && is_file_below(fd)) {
        path_of(fd, (char *)control->synced_path, sizeof control->synced_path);
        uint64_t number = __atomic_add_fetch(&control->synced, 1, __ATOMIC_SEQ_CST);
        while (control->released < number)
            pause_ms();
    }
    return result;
}

int fdatasync(int fd)
{
    WHOLE_CALL(SYNC, then_stop(fd, REAL("fdatasync", int (*)(int))(fd)));
}

int fsync(int fd)
{
    WHOLE_CALL(SYNC, then_stop(fd, REAL("fsync", int (*)(int))(fd)));
}

int unlink(const char *path)
{
    uint32_t action = is_below(path) ? turn(UNLINK) : NOTHING;
    if (is_stopped(action))
        return -1;
    int result = REAL("unlink", int (*)(const char *))(path);
    if (action == KILL_AFTER)
        die();
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = REAL("clock_gettime", int (*)(clockid_t, struct timespec *))(clock, now);
    int64_t step = control->wall_ns;
    if (result == 0 && step && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t ns = now->tv_sec * 1000000000LL + now->tv_nsec + step;
        now->tv_sec = ns / 1000000000LL;
        now->tv_nsec = ns % 1000000000LL;
    }
    return result;
}
