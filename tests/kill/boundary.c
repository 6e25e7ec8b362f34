/* Stops a process at its system calls that write, sync, name or open files below one folder, and kills it there or
 * lets the call fail. All threads of the process count together; processes that it starts are left alone.
 * x86-64 Linux. See ptrace(2).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 256

/* Where a call names its file: the number of the argument that is a descriptor or a path, -1 for none. */
struct call {
    long number;
    const char *name;
    int descriptor, folder, path, target_folder, target;
};

static const struct call calls[] = {
    {SYS_write, "write", 0, -1, -1, -1, -1},
    {SYS_pwrite64, "pwrite64", 0, -1, -1, -1, -1},
    {SYS_writev, "writev", 0, -1, -1, -1, -1},
    {SYS_pwritev, "pwritev", 0, -1, -1, -1, -1},
    {SYS_pwritev2, "pwritev2", 0, -1, -1, -1, -1},
    {SYS_sendfile, "sendfile", 0, -1, -1, -1, -1},
    {SYS_copy_file_range, "copy_file_range", 2, -1, -1, -1, -1},
    {SYS_ftruncate, "ftruncate", 0, -1, -1, -1, -1},
    {SYS_fallocate, "fallocate", 0, -1, -1, -1, -1},
    {SYS_fsync, "fsync", 0, -1, -1, -1, -1},
    {SYS_fdatasync, "fdatasync", 0, -1, -1, -1, -1},
    {SYS_sync_file_range, "sync_file_range", 0, -1, -1, -1, -1},
    {SYS_fchmod, "fchmod", 0, -1, -1, -1, -1},
    {SYS_open, "open", -1, -1, 0, -1, -1},
    {SYS_creat, "creat", -1, -1, 0, -1, -1},
    {SYS_openat, "openat", -1, 0, 1, -1, -1},
    {SYS_truncate, "truncate", -1, -1, 0, -1, -1},
    {SYS_mkdir, "mkdir", -1, -1, 0, -1, -1},
    {SYS_mkdirat, "mkdirat", -1, 0, 1, -1, -1},
    {SYS_rmdir, "rmdir", -1, -1, 0, -1, -1},
    {SYS_unlink, "unlink", -1, -1, 0, -1, -1},
    {SYS_unlinkat, "unlinkat", -1, 0, 1, -1, -1},
    {SYS_rename, "rename", -1, -1, 0, -1, 1},
    {SYS_renameat, "renameat", -1, 0, 1, 2, 3},
    {SYS_renameat2, "renameat2", -1, 0, 1, 2, 3},
    {SYS_link, "link", -1, -1, 0, -1, 1},
    {SYS_linkat, "linkat", -1, 0, 1, 2, 3},
    {SYS_symlink, "symlink", -1, -1, 1, -1, -1},
    {SYS_symlinkat, "symlinkat", -1, 1, 2, -1, -1},
    {SYS_chmod, "chmod", -1, -1, 0, -1, -1},
    {SYS_fchmodat, "fchmodat", -1, 0, 1, -1, -1},
};

struct thread {
    pid_t id;
    int inside, error;
};

struct order {
    pid_t process;
    const char *folder;
    long at;
    int error;
    FILE *log;
    long seen;
    struct thread threads[THREADS];
};

static struct thread *thread_of(struct order *order, pid_t id) {
    for (int i = 0; i < THREADS; i++) {
        if (order->threads[i].id == id) return &order->threads[i];
    }
    for (int i = 0; i < THREADS; i++) {
        if (order->threads[i].id == 0) {
            order->threads[i] = (struct thread){.id = id};
            return &order->threads[i];
        }
    }
    abort();
}

static unsigned long long argument(const struct user_regs_struct *now, int number) {
    const unsigned long long all[] = {now->rdi, now->rsi, now->rdx, now->r10, now->r8, now->r9};
    return all[number];
}

static void read_link(char *found, const char *format, pid_t id, int descriptor) {
    char link[64];
    snprintf(link, sizeof link, format, id, descriptor);
    ssize_t size = readlink(link, found, PATH_MAX - 1);
    found[size < 0 ? 0 : size] = 0;
}

/* Read a path of the process and put the folder it is relative to in front. */
static void read_path(char *found, pid_t id, const struct user_regs_struct *now, int folder, int path) {
    char text[PATH_MAX] = "";
    unsigned long long from = argument(now, path);
    for (size_t have = 0; have < sizeof text - 1;) {
        size_t left = sizeof text - 1 - have, page = 4096 - (from + have) % 4096;
        struct iovec here = {text + have, left < page ? left : page}, there = {(void *)(from + have), here.iov_len};
        ssize_t size = process_vm_readv(id, &here, 1, &there, 1, 0);
        if (size <= 0 || memchr(text + have, 0, size) != NULL) break;
        have += size;
    }
    if (text[0] == '/') {
        snprintf(found, PATH_MAX, "%s", text);
        return;
    }
    int descriptor = folder < 0 ? AT_FDCWD : (int)argument(now, folder);
    char above[PATH_MAX];
    read_link(above, descriptor == AT_FDCWD ? "/proc/%d/cwd" : "/proc/%d/fd/%d", id, descriptor);
    snprintf(found, PATH_MAX, "%.2000s/%.2000s", above, text);
}

static int below(const char *path, const char *folder) {
    size_t size = strlen(folder);
    return strncmp(path, folder, size) == 0 && (path[size] == '/' || path[size] == 0);
}

static const struct call *interesting(long number) {
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (calls[i].number == number) return &calls[i];
    }
    return NULL;
}

/* Tell whether a call only opens something to look at it, which changes nothing. */
static int only_looks(long number, const struct user_regs_struct *now) {
    if (number != SYS_openat && number != SYS_open) return 0;
    unsigned long long flags = argument(now, number == SYS_openat ? 2 : 1);
    return (flags & (O_CREAT | O_TRUNC)) == 0;
}

/* A thread is about to make a call: count it, and do what was ordered for it. */
static void entering(struct order *order, struct thread *thread) {
    struct user_regs_struct now;
    if (ptrace(PTRACE_GETREGS, thread->id, 0, &now) != 0) return;
    const struct call *call = interesting((long)now.orig_rax);
    if (call == NULL) return;
    char path[PATH_MAX] = "", target[PATH_MAX] = "";
    if (call->descriptor >= 0) {
        read_link(path, "/proc/%d/fd/%d", thread->id, (int)argument(&now, call->descriptor));
    } else {
        read_path(path, thread->id, &now, call->folder, call->path);
    }
    if (call->target >= 0) read_path(target, thread->id, &now, call->target_folder, call->target);
    if (!below(path, order->folder) && !below(target, order->folder)) return;
    int looks = only_looks(call->number, &now);
    order->seen++;
    fprintf(order->log, "%s%s\t%s\t%s\n", call->name, looks ? "-look" : "", path, target);
    fflush(order->log);
    if (order->seen != order->at) return;
    if (order->error == 0) {
        kill(order->process, SIGKILL);
        return;
    }
    now.orig_rax = (unsigned long long)-1;
    if (ptrace(PTRACE_SETREGS, thread->id, 0, &now) == 0) thread->error = order->error;
}

static void leaving(struct thread *thread) {
    struct user_regs_struct now;
    if (thread->error == 0 || ptrace(PTRACE_GETREGS, thread->id, 0, &now) != 0) return;
    now.rax = (unsigned long long)-(long long)thread->error;
    ptrace(PTRACE_SETREGS, thread->id, 0, &now);
    thread->error = 0;
}

/* Return the signal that a stopped thread gets when it goes on. */
static int look(struct order *order, pid_t id, int status) {
    struct thread *thread = thread_of(order, id);
    int number = WSTOPSIG(status);
    if (number == (SIGTRAP | 0x80)) {
        thread->inside = !thread->inside;
        if (thread->inside) {
            entering(order, thread);
        } else {
            leaving(thread);
        }
        return 0;
    }
    if (status >> 16 != 0) return 0;
    return number == SIGSTOP ? 0 : number;
}

/* For the process that is watched: stop until the watcher is there. */
int be_watched(void) {
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0) return errno;
    raise(SIGSTOP);
    return 0;
}

/* Watch a child that called `be_watched` until it ends, and return its wait status.
 *
 * at: number of the call at which something happens, counted from 1; 0 for never.
 * error: what that call fails with; 0 kills the process before it.
 * log: descriptor that gets a line for each call: name, path, second path.
 */
int watch(pid_t process, const char *folder, long at, int error, int log) {
    struct order *order = calloc(1, sizeof *order);
    *order = (struct order){.process = process, .folder = folder, .at = at, .error = error, .log = fdopen(dup(log), "w")};
    int status = 0;
    waitpid(process, &status, 0);
    ptrace(PTRACE_SETOPTIONS, process, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
    ptrace(PTRACE_SYSCALL, process, 0, 0);
    for (;;) {
        pid_t id = waitpid(-1, &status, __WALL);
        if (id < 0) break;
        if (WIFSTOPPED(status)) {
            ptrace(PTRACE_SYSCALL, id, 0, look(order, id, status));
        } else if (id == process) {
            break;
        } else {
            thread_of(order, id)->id = 0;
        }
    }
    fclose(order->log);
    free(order);
    return status;
}
