/* An init that only answers: what `make microvm` compares the server's start with. Statically linked; the network is that of
 * qemu's user mode (10.0.2.15). Every request gets the same 200. With arguments it is these that become process 1, once there
 * is a /proc, by which an interpreter finds its libraries.
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

static void address(struct ifreq *asked, const char *text) {
    struct sockaddr_in *to = (struct sockaddr_in *)&asked->ifr_addr;
    to->sin_family = AF_INET;
    inet_pton(AF_INET, text, &to->sin_addr);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        mount("proc", "/proc", "proc", 0, NULL);
        execv(argv[1], argv + 1);
        return 1;
    }
    struct timespec pause = {0, 10000000};
    struct ifreq asked = {0};
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strcpy(asked.ifr_name, "eth0");
    address(&asked, "10.0.2.15");
    while (ioctl(sock, SIOCSIFADDR, &asked) != 0)
        nanosleep(&pause, NULL);
    address(&asked, "255.255.255.0");
    ioctl(sock, SIOCSIFNETMASK, &asked);
    ioctl(sock, SIOCGIFFLAGS, &asked);
    asked.ifr_flags |= IFF_UP;
    ioctl(sock, SIOCSIFFLAGS, &asked);

    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(8080)};
    bind(sock, (struct sockaddr *)&here, sizeof here);
    listen(sock, 64);
    for (;;) {
        char request[4096];
        int client = accept(sock, NULL, NULL);
        if (client < 0)
            continue;
        if (read(client, request, sizeof request) > 0 && write(client, ANSWER, sizeof ANSWER - 1) < 0)
            shutdown(client, SHUT_RDWR);
        close(client);
    }
}
