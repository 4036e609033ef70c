/* bin/sandkeeper of the bundle: becomes the bundle's own Python, which runs libexec/start.pyc (start/start.py).
 *
 * A script would need a shell or an interpreter at a fixed place. This is linked statically, for the C library of the
 * machine that builds it may be newer than that of the machine that runs it. Nothing goes by the environment, so none of
 * ours reaches a child: the interpreter is named by its path and isolated by -I, and looks for no site (-S).
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Cuts the last part of a path. Returns 0 when there is none. */
static int up(char *path) {
    char *slash = strrchr(path, '/');
    if (slash == NULL || slash == path)
        return 0;
    *slash = '\0';
    return 1;
}

/* As process 1 of a machine that nobody has set up: the interpreter finds its library by /proc and its randomness in /dev.
 * The name of the first mount tells linux/boot/charge.py that the rest is ours to do as well. */
static void begin_machine(void) {
    if (getpid() != 1 || access("/proc/self", F_OK) == 0)
        return;
    mkdir("/proc", 0755);
    mount("sandkeeper", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mkdir("/dev", 0755);
    if (access("/dev/urandom", F_OK) != 0)
        mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
}

int main(int argc, char **argv) {
    begin_machine();
    static char self[PATH_MAX], python[PATH_MAX + sizeof PYTHON], start[PATH_MAX + sizeof START];
    if (realpath("/proc/self/exe", self) == NULL) {
        fprintf(stderr, "sandkeeper: cannot tell where it lies, for /proc is not mounted here: %s\n", strerror(errno));
        return 127;
    }
    if (!up(self) || !up(self)) {
        fprintf(stderr, "sandkeeper: %s is not in the folder bin of a bundle\n", self);
        return 127;
    }
    snprintf(python, sizeof python, "%s/%s", self, PYTHON);
    snprintf(start, sizeof start, "%s/%s", self, START);

    char **given = calloc((size_t)argc + 4, sizeof *given);
    if (given == NULL)
        return 127;
    size_t count = 0;
    given[count++] = python;
    given[count++] = "-I";
    given[count++] = "-S";
    given[count++] = start;
    for (int i = 1; i < argc; i++)
        given[count++] = argv[i];
    execv(python, given);
    fprintf(stderr, "sandkeeper: cannot run %s: %s\n", python, strerror(errno));
    return 127;
}
