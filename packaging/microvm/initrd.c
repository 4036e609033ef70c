/* /init of the initrd of a microVM: loads the modules that Debian's cloud kernel does not have built in, mounts `root=` and
 * becomes `init=` in it. It leaves no /proc behind: that tells the server that the machine is its own to set up.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 1000 /* looks for the root, 10 ms apart */

static char line[4096];

/* Says what cannot be done, on the console; the kernel panics when process 1 ends, and says so too. */
static void fail(const char *what) {
    fprintf(stderr, "initrd: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Returns the value of a parameter of the kernel's command line, or what stands in for it. */
static const char *parameter(const char *name, const char *otherwise) {
    static char copy[sizeof line], value[512];
    const char *found = NULL;
    strcpy(copy, line);
    for (char *word = strtok(copy, " \n"); word != NULL && strcmp(word, "--") != 0; word = strtok(NULL, " \n"))
        if (strncmp(word, name, strlen(name)) == 0 && word[strlen(name)] == '=')
            found = word + strlen(name) + 1;
    if (found == NULL)
        return otherwise;
    snprintf(value, sizeof value, "%s", found);
    return strdup(value);
}

static int by_name(const struct dirent **one, const struct dirent **other) {
    return strcmp((*one)->d_name, (*other)->d_name);
}

/* Loads all modules, in the order of their names; a device that this machine does not have is no failure. */
static void load_modules(void) {
    struct dirent **found;
    int count = scandir("/modules", &found, NULL, by_name);
    for (int i = 0; i < count; i++) {
        char path[512];
        if (found[i]->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/modules/%s", found[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST))
            fprintf(stderr, "initrd: %s: %s\n", path, strerror(errno));
        close(fd);
    }
}

static void mount_root(const char *device) {
    struct timespec pause = {0, 10000000};
    for (int looks = 0; access(device, F_OK) != 0 && looks < PATIENCE; looks++)
        nanosleep(&pause, NULL);
    if (mount(device, "/root", "ext4", MS_NOATIME, NULL) != 0)
        fail(device);
}

int main(int argc, char **argv) {
    mkdir("/proc", 0755);
    mkdir("/dev", 0755);
    mkdir("/root", 0755);
    if (mount("proc", "/proc", "proc", 0, NULL) != 0)
        fail("/proc");
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t count = read(fd, line, sizeof line - 1);
    line[count < 0 ? 0 : count] = '\0';
    close(fd);
    umount("/proc");
    if (access("/dev/null", F_OK) != 0 && mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755") != 0)
        fail("/dev");
    load_modules();
    mount_root(parameter("root", "/dev/vda"));

    const char *program = parameter("init", "/sbin/init");
    if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) != 0)
        fail("/root/dev");
    if (chdir("/root") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
        fail("/root");
    /* The kernel hands over what stands behind ` -- `, behind the name of this program. */
    char **given = calloc((size_t)argc + 1, sizeof *given);
    if (given == NULL)
        fail("memory");
    given[0] = strdup(program);
    for (int i = 1; i < argc; i++)
        given[i] = argv[i];
    execv(program, given);
    fail(program);
}
