/* Preloaded, it makes one call of the system fail that `arm` names: the n-th that touches a path
   which contains `part`, or every one from there on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char armed[32], part[4096];
static int error, first, is_lasting;
static atomic_int count;

void arm(const char *call, int errno_, int n, const char *part_, int lasting) {
  armed[0] = 0;
  atomic_store(&count, 0);
  snprintf(part, sizeof part, "%s", part_);
  error = errno_, first = n, is_lasting = lasting;
  snprintf(armed, sizeof armed, "%s", call);
}

int num_calls(void) { return atomic_load(&count); }

__attribute__((constructor)) static void arm_by_environment(void) {
  const char *call = getenv("FAULT_CALL"), *path = getenv("FAULT_PATH");
  if (call && path) arm(call, atoi(getenv("FAULT_ERRNO")), 1, path, 1);
}

static int fails(const char *call, const char *path) {
  if (strcmp(call, armed) || !path || !strstr(path, part)) return 0;
  int n = atomic_fetch_add(&count, 1) + 1;
  if (n != first && !(is_lasting && n > first)) return 0;
  errno = error;
  return 1;
}

static const char *path_of(int fd, char *path, size_t size) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, size - 1);
  if (length < 0) return NULL;
  path[length] = 0;
  return path;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define OF_PATH(name, declared, path, given)     \
  int name declared {                            \
    return fails(#name, path) ? -1 : REAL(name) given; \
  }
#define OF_FD(type, name, declared, fd, given)   \
  type name declared {                           \
    char path[4096];                             \
    return fails(#name, path_of(fd, path, sizeof path)) ? -1 : REAL(name) given; \
  }

OF_PATH(mkdir, (const char *a, mode_t m), a, (a, m))
OF_PATH(rename, (const char *a, const char *b), b, (a, b))
OF_PATH(link, (const char *a, const char *b), b, (a, b))
OF_PATH(linkat, (int d, const char *a, int e, const char *b, int f), b, (d, a, e, b, f))
OF_PATH(unlink, (const char *a), a, (a))
OF_FD(int, unlinkat, (int d, const char *a, int f), d, (d, a, f))
OF_FD(int, fsync, (int fd), fd, (fd))
OF_FD(ssize_t, write, (int fd, const void *data, size_t n), fd, (fd, data, n))
