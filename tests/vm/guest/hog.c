/* A memory hog as fast as the machine allows: what Python cannot be. Static, no arguments needed.
 *
 *   hog [--step MiB] [--pause ms] [--limit MiB] [--tasks N] [--fork-forever]
 *
 * Takes --step MiB at a time and touches every page, waits --pause ms, and holds what it has
 * once it reaches --limit MiB (0: never stops). --tasks N does that in N processes at once.
 * --fork-forever: the first process grows, and a chain of children forks on without a pause, each
 * holding 1 MiB for a tenth of a second: the tree is never the same twice.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static long step_mib = 1, pause_ms = 0, limit_mib = 0, tasks = 1;
static int fork_forever = 0;

static void take(long mib) {
    size_t bytes = (size_t)mib << 20;
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) { perror("mmap"); exit(1); }
    for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
}

static void grow(void) {
    for (long held = 0; limit_mib == 0 || held < limit_mib; held += step_mib) {
        take(step_mib);
        if (pause_ms) usleep(pause_ms * 1000);
    }
    for (;;) pause();
}

/* Parents leave a tenth of a second after their child was born, so there is always a youngest. */
static void fork_without_pause(void) {
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        pid_t child = fork();
        if (child > 0) { take(1); usleep(100 * 1000); _exit(0); }
        if (child < 0) usleep(1000);
        usleep(5 * 1000);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--fork-forever")) { fork_forever = 1; continue; }
        if (i + 1 >= argc) { fprintf(stderr, "hog: %s needs a value\n", argv[i]); return 2; }
        long value = atol(argv[i + 1]);
        if (!strcmp(argv[i], "--step")) step_mib = value;
        else if (!strcmp(argv[i], "--pause")) pause_ms = value;
        else if (!strcmp(argv[i], "--limit")) limit_mib = value;
        else if (!strcmp(argv[i], "--tasks")) tasks = value;
        else { fprintf(stderr, "hog: unknown %s\n", argv[i]); return 2; }
        i++;
    }
    if (fork_forever && fork() == 0) fork_without_pause();
    for (long n = 1; n < tasks; n++) if (fork() == 0) break;
    grow();
}
