/* Answers TCP connections and UDP datagrams on each PORT of both families with the sender's address.
 * What pods run that others shall reach; prints "ready" once it listens. */
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 64

static int open_port(int kind, int port) {
    struct sockaddr_in6 place = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int yes = 1, fd = socket(AF_INET6, kind, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (fd < 0 || bind(fd, (void *)&place, sizeof place) || (kind == SOCK_STREAM && listen(fd, 16))) {
        perror("serve");
        exit(1);
    }
    return fd;
}

static size_t name(const struct sockaddr_in6 *from, char *text, size_t size) {
    char address[INET6_ADDRSTRLEN];
    inet_ntop(AF_INET6, &from->sin6_addr, address, sizeof address);
    const char *bare = strncmp(address, "::ffff:", 7) ? address : address + 7;
    return snprintf(text, size, "%s\n", bare);
}

int main(int count, char **words) {
    struct pollfd fds[2 * MOST];
    int used = 0;
    for (int i = 1; i < count && i <= MOST; i++) {
        fds[used++] = (struct pollfd){open_port(SOCK_STREAM, atoi(words[i])), POLLIN, 0};
        fds[used++] = (struct pollfd){open_port(SOCK_DGRAM, atoi(words[i])), POLLIN, 0};
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        poll(fds, used, -1);
        for (int i = 0; i < used; i++) {
            struct sockaddr_in6 from;
            socklen_t size = sizeof from;
            char text[64], ignored[2048];
            if (!(fds[i].revents & POLLIN))
                continue;
            if (i % 2) {
                if (recvfrom(fds[i].fd, ignored, sizeof ignored, 0, (void *)&from, &size) >= 0)
                    sendto(fds[i].fd, text, name(&from, text, sizeof text), 0, (void *)&from, size);
                continue;
            }
            int client = accept(fds[i].fd, (void *)&from, &size);
            if (client >= 0) {
                if (write(client, text, name(&from, text, sizeof text)) < 0)
                    perror("serve");
                close(client);
            }
        }
    }
}
