/* Loaded before the C library (LD_PRELOAD), it writes every change below the folder POWER_ROOT to
   the file POWER_LOG, in the order in which they happen: one at a time, whatever their threads.
   A record is a line "<name> <offset> <bytes of path> <bytes of data>", the path, the data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static int log_file = -1;

#define REAL(result, name, ...)                                        \
  static result (*real)(__VA_ARGS__);                                  \
  if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)
#define LOCKED(result, call) \
  pthread_mutex_lock(&one_at_a_time); result r = call; int e = errno
#define UNLOCKED() pthread_mutex_unlock(&one_at_a_time); errno = e; return r

static ssize_t plain_write(int fd, const void *data, size_t size) {
  REAL(ssize_t, write, int, const void *, size_t);
  return real(fd, data, size);
}

static int plain_open(const char *path, int flags, mode_t mode) {
  REAL(int, open, const char *, int, ...);
  return real(path, flags, mode);
}

static int is_below(const char *path) {
  const char *root = getenv("POWER_ROOT");
  size_t n = root ? strlen(root) : 0;
  return n && !strncmp(path, root, n) && (path[n] == '/' || !path[n]);
}

static void put(const void *data, size_t size) {
  if (log_file < 0) log_file = plain_open(getenv("POWER_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0666);
  for (const char *at = data; size;) {
    ssize_t n = plain_write(log_file, at, size);
    if (n <= 0) abort(); /* a record with holes would prove nothing */
    at += n, size -= n;
  }
}

static void record(const char *name, const char *path, long offset, const void *data, size_t size) {
  if (!is_below(path)) return;
  char head[128];
  put(head, snprintf(head, sizeof head, "%s %ld %zu %zu\n", name, offset, strlen(path), size));
  put(path, strlen(path));
  put(data, size);
}

static const char *of_file(int fd, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, PATH_MAX - 1);
  path[n < 0 ? 0 : n] = 0;
  return path;
}

static const char *full(int folder, const char *name, char *path) {
  if (*name == '/') return name;
  char parent[PATH_MAX];
  if (folder == AT_FDCWD) { if (!getcwd(parent, sizeof parent)) abort(); }
  else of_file(folder, parent);
  if (snprintf(path, PATH_MAX, "%s/%s", parent, name) >= PATH_MAX) abort();
  return path;
}

/* ---- opening: a new file, or one that loses its content ---- */

static int opened(int folder, const char *name, int flags, mode_t mode) {
  REAL(int, openat, int, const char *, int, ...);
  if (!(flags & (O_CREAT | O_TRUNC))) return real(folder, name, flags, mode);
  struct stat about;
  char path[PATH_MAX];
  pthread_mutex_lock(&one_at_a_time);
  int is_new = fstatat(folder, name, &about, 0) != 0;
  int r = real(folder, name, flags, mode), e = errno;
  if (r >= 0 && is_new) record("create", of_file(r, path), 0, "", 0);
  if (r >= 0 && !is_new && flags & O_TRUNC) record("truncate", of_file(r, path), 0, "", 0);
  UNLOCKED();
}

#define MODE(flags) \
  va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest)
int open(const char *name, int flags, ...) { MODE(flags); return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags); return opened(AT_FDCWD, name, flags, mode); }
int openat(int folder, const char *name, int flags, ...) { MODE(flags); return opened(folder, name, flags, mode); }
int openat64(int folder, const char *name, int flags, ...) { MODE(flags); return opened(folder, name, flags, mode); }
int creat(const char *name, mode_t mode) { return opened(AT_FDCWD, name, O_WRONLY | O_CREAT | O_TRUNC, mode); }

/* ---- content ---- */

/* After each write, so that one that was not recorded shows. */
static void size_of(int fd) {
  char path[PATH_MAX];
  struct stat about;
  if (!fstat(fd, &about) && S_ISREG(about.st_mode))
    record("size", of_file(fd, path), about.st_size, "", 0);
}

static void written(int fd, long offset, const void *data, ssize_t size) {
  char path[PATH_MAX];
  if (size <= 0) return;
  record("write", of_file(fd, path), offset, data, size);
}

ssize_t write(int fd, const void *data, size_t size) {
  LOCKED(ssize_t, plain_write(fd, data, size));
  written(fd, lseek(fd, 0, SEEK_CUR) - r, data, r);
  size_of(fd);
  UNLOCKED();
}

static void written_parts(int fd, long offset, const struct iovec *parts, ssize_t size) {
  for (; size > 0; parts++) {
    ssize_t n = size < (ssize_t)parts->iov_len ? size : (ssize_t)parts->iov_len;
    written(fd, offset, parts->iov_base, n);
    offset += n, size -= n;
  }
  size_of(fd);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(ssize_t, writev, int, const struct iovec *, int);
  LOCKED(ssize_t, real(fd, parts, count));
  written_parts(fd, lseek(fd, 0, SEEK_CUR) - r, parts, r);
  UNLOCKED();
}

#define PWRITE(name)                                                      \
  ssize_t name(int fd, const void *data, size_t size, off_t offset) {     \
    REAL(ssize_t, name, int, const void *, size_t, off_t);                \
    LOCKED(ssize_t, real(fd, data, size, offset));                        \
    written(fd, offset, data, r);                                         \
    size_of(fd);                                                          \
    UNLOCKED();                                                           \
  }
PWRITE(pwrite) PWRITE(pwrite64)

#define PWRITEV(name)                                                     \
  ssize_t name(int fd, const struct iovec *parts, int count, off_t offset) { \
    REAL(ssize_t, name, int, const struct iovec *, int, off_t);           \
    LOCKED(ssize_t, real(fd, parts, count, offset));                      \
    written_parts(fd, offset, parts, r);                                  \
    UNLOCKED();                                                           \
  }
PWRITEV(pwritev) PWRITEV(pwritev64)

#define TRUNCATE(name)                                      \
  int name(int fd, off_t length) {                          \
    REAL(int, name, int, off_t);                            \
    LOCKED(int, real(fd, length));                          \
    char path[PATH_MAX];                                    \
    if (!r) record("truncate", of_file(fd, path), length, "", 0); \
    UNLOCKED();                                             \
  }
TRUNCATE(ftruncate) TRUNCATE(ftruncate64)

#define SYNC(name)                                          \
  int name(int fd) {                                        \
    REAL(int, name, int);                                   \
    LOCKED(int, real(fd));                                  \
    char path[PATH_MAX];                                    \
    if (!r) record("sync", of_file(fd, path), 0, "", 0);    \
    UNLOCKED();                                             \
  }
SYNC(fsync) SYNC(fdatasync)

/* ---- names ---- */

static int named(const char *what, int folder, const char *name, int r) {
  char path[PATH_MAX];
  if (!r) record(what, full(folder, name, path), 0, "", 0);
  return r;
}

int mkdirat(int folder, const char *name, mode_t mode) {
  REAL(int, mkdirat, int, const char *, mode_t);
  LOCKED(int, named("mkdir", folder, name, real(folder, name, mode)));
  UNLOCKED();
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

int unlinkat(int folder, const char *name, int flags) {
  REAL(int, unlinkat, int, const char *, int);
  LOCKED(int, named("remove", folder, name, real(folder, name, flags)));
  UNLOCKED();
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

#define TRUNCATE_NAMED(name)                                \
  int name(const char *path, off_t length) {                \
    REAL(int, name, const char *, off_t);                   \
    LOCKED(int, real(path, length));                        \
    char whole[PATH_MAX];                                   \
    if (!r) record("truncate", full(AT_FDCWD, path, whole), length, "", 0); \
    UNLOCKED();                                             \
  }
TRUNCATE_NAMED(truncate) TRUNCATE_NAMED(truncate64)

/* Python and TensorStore replace by `rename`, and Python links by `link` or `linkat`. */
static int two_named(const char *what, int from, const char *old, int to, const char *new, int r) {
  char path[PATH_MAX], target[PATH_MAX];
  const char *other = full(to, new, target);
  if (!r) record(what, full(from, old, path), 0, other, strlen(other));
  return r;
}

int renameat(int from, const char *old, int to, const char *new) {
  REAL(int, renameat, int, const char *, int, const char *);
  LOCKED(int, two_named("rename", from, old, to, new, real(from, old, to, new)));
  UNLOCKED();
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
  REAL(int, linkat, int, const char *, int, const char *, int);
  LOCKED(int, two_named("link", from, old, to, new, real(from, old, to, new, flags)));
  UNLOCKED();
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }
