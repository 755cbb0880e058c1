/*
 * Loaded with LD_PRELOAD into a process: records, in their order, the changes that it makes to files below one
 * directory, and makes chosen calls fail. tests/faults/recording.py says what is in the record.
 *
 *   STORJFS_RECORD_ROOT     the directory, a real path; files named *-shm are left out (made anew by SQLite)
 *   STORJFS_RECORD_WITHOUT  parts of paths, separated by colons, that are left out too
 *   STORJFS_RECORD_TO       the record; several processes may share it
 *   STORJFS_RECORD_CONTROL  which calls fail: struct control, shared with whoever mapped the file (optional)
 *
 * One lock is held over each call and its entry, so that the record's order is the order on the disk. Nothing is
 * really synced: what a sync is worth is for whoever reads the record to judge, and tests should not wear disks.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { CREATE = 1, WRITE, TRUNCATE, PUNCH, SYNC, SYNC_FOLDER, RENAME, UNLINK, MKDIR, RMDIR };

struct entry {
    uint32_t kind;
    int32_t error;      /* errno of a call that was made to fail, else 0 */
    uint64_t file;      /* inode number */
    int64_t offset;
    int64_t length;
    uint32_t path, second, data; /* lengths of what follows */
    uint32_t unused;
};

struct control {
    int64_t seen;       /* calls of the wanted kinds so far */
    int64_t first, last; /* those numbered so (from 1) fail */
    int64_t error;
    int64_t kinds;      /* bit 1 << kind */
    int64_t torn;       /* of 1000 parts of a failing write, how many get through */
    int64_t failed;     /* how many were made to fail */
    int64_t unused;
};

#define MOST_FILES 65536
static struct { char *path; uint64_t file; } files[MOST_FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static char without[PATH_MAX];
static int record = -1;
static struct control nothing, *control = &nothing;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (real == NULL) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void give_up(const char *why)
{
    dprintf(2, "recorder: %s\n", why);
    abort();
}

__attribute__((constructor)) static void begin(void)
{
    const char *where = getenv("STORJFS_RECORD_ROOT"), *to = getenv("STORJFS_RECORD_TO");
    const char *shared = getenv("STORJFS_RECORD_CONTROL"), *left_out = getenv("STORJFS_RECORD_WITHOUT");
    if (where == NULL || to == NULL)
        return;
    REAL(int, "open64", const char *, int, ...);
    int low = real(to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    /* Out of the way of programs that close or count low descriptors. */
    record = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, 900);
    if (record < 0)
        give_up("cannot open the record");
    close(low);
    if (shared != NULL) {
        int fd = real(shared, O_RDWR | O_CLOEXEC);
        void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED)
            give_up("cannot map the control file");
        control = mapped;
        close(fd);
    }
    snprintf(without, sizeof without, "%s", left_out == NULL ? "" : left_out);
    snprintf(root, sizeof root, "%s", where);
    root_length = strlen(root);
}

/* --- which files --- */

static const char *full(int at, const char *path, char *buffer)
{
    if (path[0] == '/' || root_length == 0)
        return path;
    if (at == AT_FDCWD) {
        char here[PATH_MAX];
        if (getcwd(here, sizeof here) == NULL)
            return path;
        snprintf(buffer, 2 * PATH_MAX, "%s/%s", here, path);
        return buffer;
    }
    if (at >= 0 && at < MOST_FILES && files[at].path != NULL) {
        snprintf(buffer, 2 * PATH_MAX, "%s/%s", files[at].path, path);
        return buffer;
    }
    return path;
}

static int wanted(const char *path)
{
    if (root_length == 0 || strncmp(path, root, root_length) != 0)
        return 0;
    if (path[root_length] != '/' && path[root_length] != '\0')
        return 0;
    size_t length = strlen(path);
    if (length > 4 && strcmp(path + length - 4, "-shm") == 0)
        return 0;
    char parts[PATH_MAX], *rest = NULL;
    snprintf(parts, sizeof parts, "%s", without);
    for (char *part = strtok_r(parts, ":", &rest); part != NULL; part = strtok_r(NULL, ":", &rest))
        if (strstr(path + root_length, part) != NULL)
            return 0;
    return 1;
}

static int tracked(int fd)
{
    return fd >= 0 && fd < MOST_FILES && files[fd].path != NULL;
}

/* --- the record --- */

static void put(enum kind kind, int error, uint64_t file, int64_t offset, int64_t length, const char *path,
                const char *second, const void *data, size_t size)
{
    struct entry entry = {kind, error, file, offset, length, 0, 0, (uint32_t)size, 0};
    const char *shown = path == NULL ? "" : path + root_length, *other = second == NULL ? "" : second + root_length;
    entry.path = (uint32_t)strlen(shown);
    entry.second = (uint32_t)strlen(other);
    struct iovec parts[4] = {{&entry, sizeof entry},
                             {(void *)shown, entry.path},
                             {(void *)other, entry.second},
                             {(void *)data, size}};
    size_t total = sizeof entry + entry.path + entry.second + size;
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (real(record, parts, 4) != (ssize_t)total)
        give_up("the record cannot be written");
}

/* Whether this call is to fail, with which errno. */
static int fault(enum kind kind)
{
    if (!(control->kinds & (1 << kind)))
        return 0;
    int64_t number = ++control->seen;
    if (number < control->first || number > control->last)
        return 0;
    control->failed++;
    return (int)control->error;
}

static uint64_t number_of(int fd)
{
    struct stat found;
    return fstat(fd, &found) == 0 ? (uint64_t)found.st_ino : 0;
}

/* --- opening and closing --- */

static int opened(int at, const char *path, int flags, mode_t mode)
{
    REAL(int, "openat64", int, const char *, int, ...);
    char buffer[2 * PATH_MAX];
    const char *name = full(at, path, buffer);
    if (!wanted(name))
        return real(at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before;
    int existed = stat(name, &before) == 0, error = 0, fd = -1;
    if ((flags & O_CREAT) && !existed)
        error = fault(CREATE);
    if (error != 0)
        errno = error;
    else
        fd = real(at, path, flags, mode);
    int kept = errno;
    if (fd >= MOST_FILES)
        give_up("too many files");
    if (fd >= 0) {
        free(files[fd].path);
        files[fd].path = strdup(name);
        files[fd].file = number_of(fd);
        if (!existed)
            put(CREATE, 0, files[fd].file, 0, 0, name, NULL, NULL, 0);
        else if (flags & O_TRUNC)
            put(TRUNCATE, 0, files[fd].file, 0, 0, name, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = kept;
    return fd;
}

#define MODE_OF(flags, mode) \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { mode_t mode = 0; MODE_OF(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { mode_t mode = 0; MODE_OF(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { mode_t mode = 0; MODE_OF(flags, mode) return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { mode_t mode = 0; MODE_OF(flags, mode) return opened(at, path, flags, mode); }

int close(int fd)
{
    REAL(int, "close", int);
    if (!tracked(fd))
        return real(fd);
    pthread_mutex_lock(&lock);
    free(files[fd].path);
    files[fd].path = NULL;
    int done = real(fd);
    pthread_mutex_unlock(&lock);
    return done;
}

/* --- content --- */

static ssize_t written(int fd, const void *data, size_t size, off64_t offset, int seek)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    pthread_mutex_lock(&lock);
    int error = fault(WRITE);
    size_t allowed = error == 0 ? size : size * (size_t)control->torn / 1000;
    ssize_t done = allowed > 0 || error == 0 ? real(fd, data, allowed, offset) : 0;
    int kept = errno;
    if (done > 0)
        put(WRITE, error, files[fd].file, offset, done, NULL, NULL, data, (size_t)done);
    else if (error != 0)
        put(WRITE, error, files[fd].file, offset, 0, NULL, NULL, NULL, 0);
    if (done > 0 && seek)
        lseek64(fd, offset + done, SEEK_SET);
    if (error != 0 && done <= 0) {
        done = -1;
        kept = error;
    }
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return tracked(fd) ? written(fd, data, size, offset, 0) : real(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!tracked(fd))
        return real(fd, data, size);
    int flags = fcntl(fd, F_GETFL);
    struct stat found;
    if (flags & O_APPEND && fstat(fd, &found) == 0)
        return written(fd, data, size, found.st_size, 0);
    return written(fd, data, size, lseek64(fd, 0, SEEK_CUR), 1);
}

static ssize_t written_parts(int fd, const struct iovec *parts, int count, off64_t offset, int seek)
{
    size_t size = 0, at = 0;
    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    char *together = malloc(size + 1);
    for (int i = 0; i < count; at += parts[i++].iov_len)
        memcpy(together + at, parts[i].iov_base, parts[i].iov_len);
    ssize_t done = written(fd, together, size, offset, seek);
    int kept = errno;
    free(together);
    errno = kept;
    return done;
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    return tracked(fd) ? written_parts(fd, parts, count, offset, 0) : real(fd, parts, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev64(fd, parts, count, offset); }

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    REAL(ssize_t, "pwritev64v2", int, const struct iovec *, int, off64_t, int);
    return tracked(fd) ? written_parts(fd, parts, count, offset, 0) : real(fd, parts, count, offset, flags);
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    return pwritev64v2(fd, parts, count, offset, flags);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return tracked(fd) ? written_parts(fd, parts, count, lseek64(fd, 0, SEEK_CUR), 1) : real(fd, parts, count);
}

int ftruncate64(int fd, off64_t length)
{
    REAL(int, "ftruncate64", int, off64_t);
    if (!tracked(fd))
        return real(fd, length);
    pthread_mutex_lock(&lock);
    int error = fault(TRUNCATE), done = error == 0 ? real(fd, length) : -1, kept = error == 0 ? errno : error;
    if (done == 0)
        put(TRUNCATE, 0, files[fd].file, 0, length, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    REAL(int, "fallocate64", int, int, off64_t, off64_t);
    if (!tracked(fd))
        return real(fd, mode, offset, length);
    if (!(mode & FALLOC_FL_PUNCH_HOLE))
        give_up("fallocate without a hole is not recorded");
    pthread_mutex_lock(&lock);
    int error = fault(PUNCH), done = error == 0 ? real(fd, mode, offset, length) : -1;
    int kept = error == 0 ? errno : error;
    if (done == 0)
        put(PUNCH, 0, files[fd].file, offset, length, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

static void refuse(int fd, const char *why)
{
    if (tracked(fd))
        give_up(why);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t count)
{
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    refuse(out, "sendfile is not recorded");
    return real(out, in, offset, count);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t count) { return sendfile64(out, in, (off64_t *)offset, count); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags)
{
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    refuse(out, "copy_file_range is not recorded");
    return real(in, from, out, to, count, flags);
}

/* --- syncing --- */

static int synced(int fd)
{
    pthread_mutex_lock(&lock);
    struct stat found;
    int folder = fstat(fd, &found) == 0 && S_ISDIR(found.st_mode);
    enum kind kind = folder ? SYNC_FOLDER : SYNC;
    int error = fault(kind);
    put(kind, error, files[fd].file, 0, 0, files[fd].path, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return error == 0 ? 0 : -1;
}

int fsync(int fd)
{
    REAL(int, "fsync", int);
    return tracked(fd) ? synced(fd) : real(fd);
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    return tracked(fd) ? synced(fd) : real(fd);
}

/* --- names --- */

int renameat2(int at, const char *from, int to_at, const char *to, unsigned flags)
{
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    char one[2 * PATH_MAX], two[2 * PATH_MAX];
    const char *source = full(at, from, one), *target = full(to_at, to, two);
    if (!wanted(source) && !wanted(target))
        return real(at, from, to_at, to, flags);
    if (!wanted(source) || !wanted(target) || flags != 0)
        give_up("such a rename is not recorded");
    pthread_mutex_lock(&lock);
    int error = fault(RENAME), done = error == 0 ? real(at, from, to_at, to, flags) : -1;
    int kept = error == 0 ? errno : error;
    if (done == 0)
        put(RENAME, 0, 0, 0, 0, source, target, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

int renameat(int at, const char *from, int to_at, const char *to) { return renameat2(at, from, to_at, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int at, const char *path, int flags)
{
    REAL(int, "unlinkat", int, const char *, int);
    char buffer[2 * PATH_MAX];
    const char *name = full(at, path, buffer);
    if (!wanted(name))
        return real(at, path, flags);
    pthread_mutex_lock(&lock);
    enum kind kind = flags & AT_REMOVEDIR ? RMDIR : UNLINK;
    int error = fault(kind), done = error == 0 ? real(at, path, flags) : -1, kept = error == 0 ? errno : error;
    if (done == 0)
        put(kind, 0, 0, 0, 0, name, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int at, const char *path, mode_t mode)
{
    REAL(int, "mkdirat", int, const char *, mode_t);
    char buffer[2 * PATH_MAX];
    const char *name = full(at, path, buffer);
    if (!wanted(name))
        return real(at, path, mode);
    pthread_mutex_lock(&lock);
    int error = fault(MKDIR), done = error == 0 ? real(at, path, mode) : -1, kept = error == 0 ? errno : error;
    if (done == 0)
        put(MKDIR, 0, 0, 0, 0, name, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int mknodat(int at, const char *path, mode_t mode, dev_t device)
{
    REAL(int, "mknodat", int, const char *, mode_t, dev_t);
    char buffer[2 * PATH_MAX];
    const char *name = full(at, path, buffer);
    if (!wanted(name))
        return real(at, path, mode, device);
    pthread_mutex_lock(&lock);
    struct stat made;
    int error = fault(CREATE), done = error == 0 ? real(at, path, mode, device) : -1, kept = error == 0 ? errno : error;
    if (done == 0)
        put(CREATE, 0, stat(name, &made) == 0 ? (uint64_t)made.st_ino : 0, 0, 0, name, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = kept;
    return done;
}

int mknod(const char *path, mode_t mode, dev_t device) { return mknodat(AT_FDCWD, path, mode, device); }
