/* In front of the C library's writes: what a slow or a full disk does to a server that was started
 * with this (LD_PRELOAD). The file that TIFFIN_DISK names says how slow, in milliseconds for each write
 * or sync of a file: four bytes, which are read anew each time. Logs (standard output and error) and
 * sockets are as ever. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static volatile uint32_t *delay_ms;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("TIFFIN_DISK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof *delay_ms, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        delay_ms = page;
    close(fd);
}

static void wait_for_disk(int fd)
{
    int kept = errno;
    uint32_t ms = delay_ms ? *delay_ms : 0;
    struct stat what;
    if (ms > 0 && fd > 2 && fstat(fd, &what) == 0 && S_ISREG(what.st_mode)) {
        struct timespec rest = { ms / 1000, (long)(ms % 1000) * 1000000 };
        while (nanosleep(&rest, &rest) != 0 && errno == EINTR)
            ;
    }
    errno = kept;
}

#define SLOW(type, name, parameters, fd, arguments)                                                \
    type name parameters                                                                           \
    {                                                                                              \
        static type(*next) parameters;                                                             \
        if (!next)                                                                                 \
            *(void **)&next = dlsym(RTLD_NEXT, #name);                                             \
        wait_for_disk(fd);                                                                         \
        return next arguments;                                                                     \
    }

SLOW(ssize_t, write, (int fd, const void *bytes, size_t count), fd, (fd, bytes, count))
SLOW(ssize_t, pwrite, (int fd, const void *bytes, size_t count, off_t at), fd, (fd, bytes, count, at))
SLOW(ssize_t, pwrite64, (int fd, const void *bytes, size_t count, off64_t at), fd,
     (fd, bytes, count, at))
SLOW(int, fsync, (int fd), fd, (fd))
SLOW(int, fdatasync, (int fd), fd, (fd))
