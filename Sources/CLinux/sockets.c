#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "include/sockets.h"

static socklen_t to_native(const struct dsr_address *a, struct sockaddr_storage *s) {
    memset(s, 0, sizeof *s);
    if (a->family == 4) {
        struct sockaddr_in *v = (struct sockaddr_in *)s;
        v->sin_family = AF_INET;
        v->sin_port = htons(a->port);
        memcpy(&v->sin_addr, a->octets, 4);
        return sizeof *v;
    }
    struct sockaddr_in6 *v = (struct sockaddr_in6 *)s;
    v->sin6_family = AF_INET6;
    v->sin6_port = htons(a->port);
    memcpy(&v->sin6_addr, a->octets, 16);
    return sizeof *v;
}

static void from_native(const struct sockaddr_storage *s, struct dsr_address *a) {
    memset(a, 0, sizeof *a);
    if (s->ss_family == AF_INET) {
        const struct sockaddr_in *v = (const struct sockaddr_in *)s;
        a->family = 4;
        a->port = ntohs(v->sin_port);
        memcpy(a->octets, &v->sin_addr, 4);
    } else {
        const struct sockaddr_in6 *v = (const struct sockaddr_in6 *)s;
        a->family = 6;
        a->port = ntohs(v->sin6_port);
        memcpy(a->octets, &v->sin6_addr, 16);
    }
}

static int set(int fd, int level, int option, int value) {
    return setsockopt(fd, level, option, &value, sizeof value) ? -errno : 0;
}

static int open_socket(int family, const char *device) {
    int fd = socket(family == 4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    if (family == 6) set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    if (device && *device && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strlen(device))) {
        int e = errno;
        close(fd);
        return -e;
    }
    return fd;
}

static int fail(int fd) {
    int e = errno;
    close(fd);
    return -e;
}

// Urgent data would corrupt the stream at a move; small segments must not wait; a peer that vanished is
// noticed after two minutes, as in the dataplane.
static void configure(int fd) {
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, 6);
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, SOL_SOCKET, SO_OOBINLINE, 1);
}

int dsr_listen(const struct dsr_address *address, const char *device, int backlog) {
    int fd = open_socket(address->family, device);
    if (fd < 0) return fd;
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    struct sockaddr_storage s;
    socklen_t n = to_native(address, &s);
    if (bind(fd, (struct sockaddr *)&s, n)) return fail(fd);
    int e = set(fd, IPPROTO_TCP, TCP_SAVE_SYN, 1);
    if (e) {
        close(fd);
        return e;
    }
    if (listen(fd, backlog)) return fail(fd);
    return fd;
}

int dsr_accept(int fd, struct dsr_address *local, struct dsr_address *remote) {
    struct sockaddr_storage s;
    socklen_t n = sizeof s;
    int c = accept4(fd, (struct sockaddr *)&s, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (c < 0) return -errno;
    from_native(&s, remote);
    n = sizeof s;
    if (getsockname(c, (struct sockaddr *)&s, &n)) return fail(c);
    from_native(&s, local);
    configure(c);
    return c;
}

int dsr_connect(const struct dsr_address *local, const struct dsr_address *remote, const char *device, int mss,
                int window_clamp) {
    int fd = open_socket(remote->family, device);
    if (fd < 0) return fd;
    configure(fd);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (mss) set(fd, IPPROTO_TCP, TCP_MAXSEG, mss);
    if (window_clamp) set(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, window_clamp);
    struct sockaddr_storage s;
    socklen_t n = to_native(local, &s);
    if (bind(fd, (struct sockaddr *)&s, n)) return fail(fd);
    n = to_native(remote, &s);
    if (connect(fd, (struct sockaddr *)&s, n) && errno != EINPROGRESS) return fail(fd);
    return fd;
}

int dsr_socket_error(int fd) {
    int e = 0;
    socklen_t n = sizeof e;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n)) return errno;
    return e;
}

int dsr_tcp_info_read(int fd, struct dsr_tcp_info *info) {
    struct tcp_info t;
    socklen_t n = sizeof t;
    memset(&t, 0, sizeof t);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &t, &n)) return -errno;
    info->state = t.tcpi_state;
    info->timestamps = (t.tcpi_options & TCPI_OPT_TIMESTAMPS) != 0;
    info->sack = (t.tcpi_options & TCPI_OPT_SACK) != 0;
    info->window_scale = (t.tcpi_options & TCPI_OPT_WSCALE) != 0;
    info->send_scale = t.tcpi_snd_wscale;
    info->receive_scale = t.tcpi_rcv_wscale;
    info->send_mss = t.tcpi_snd_mss;
    info->rtt_us = t.tcpi_rtt;
    info->unacked = t.tcpi_unacked;
    info->retransmits = t.tcpi_total_retrans;
    info->bytes_received = t.tcpi_bytes_received;
    info->bytes_acked = t.tcpi_bytes_acked;
    return 0;
}

int dsr_saved_syn(int fd, uint8_t *buffer, int size) {
    socklen_t n = (socklen_t)size;
    return getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, buffer, &n) ? -errno : (int)n;
}

int dsr_set_window_clamp(int fd, int clamp) { return set(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, clamp); }

int dsr_set_reset(int fd) {
    struct linger l = {1, 0};
    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l) ? -errno : 0;
}

int dsr_receive_queue(int fd) {
    int v = 0;
    return ioctl(fd, SIOCINQ, &v) ? -errno : v;
}

int dsr_send_queue(int fd) {
    int v = 0;
    return ioctl(fd, SIOCOUTQ, &v) ? -errno : v;
}

long dsr_receive(int fd, void *buffer, size_t size) {
    for (;;) {
        ssize_t r = recv(fd, buffer, size, 0);
        if (r >= 0) return r;
        if (errno != EINTR) return -errno;
    }
}

long dsr_receive_two(int fd, void *first, size_t first_size, void *second, size_t second_size) {
    struct iovec parts[2] = {{first, first_size}, {second, second_size}};
    for (;;) {
        ssize_t r = readv(fd, parts, 2);
        if (r >= 0) return r;
        if (errno != EINTR) return -errno;
    }
}

long dsr_send(int fd, const void *buffer, size_t size) {
    for (;;) {
        ssize_t r = send(fd, buffer, size, MSG_NOSIGNAL);
        if (r >= 0) return r;
        if (errno != EINTR) return -errno;
    }
}

int dsr_shutdown_write(int fd) { return shutdown(fd, SHUT_WR) ? -errno : 0; }

int dsr_repair_on(int fd) { return set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON); }

// Without a window probe. Leaving repair mode clears SO_REUSEADDR: a listener could not be bound again.
int dsr_repair_off(int fd) {
    int e = set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    return e;
}

int dsr_queue_sequence(int fd, int is_send, uint32_t *value) {
    int e = set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, is_send ? TCP_SEND_QUEUE : TCP_RECV_QUEUE);
    if (e) return e;
    socklen_t n = sizeof *value;
    return getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, value, &n) ? -errno : 0;
}

int dsr_repair_window_read(int fd, struct dsr_repair_window *window) {
    struct tcp_repair_window w;
    socklen_t n = sizeof w;
    if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &n)) return -errno;
    window->snd_wl1 = w.snd_wl1;
    window->snd_wnd = w.snd_wnd;
    window->max_window = w.max_window;
    window->rcv_wnd = w.rcv_wnd;
    window->rcv_wup = w.rcv_wup;
    return 0;
}

int dsr_timestamp_read(int fd, uint32_t *value) {
    socklen_t n = sizeof *value;
    return getsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, value, &n) ? -errno : 0;
}

// The peer may send all of the window at once, and it comes here in small packets, each of which counts for far more
// memory than its octets: with the default buffer the kernel drops a part, and the peer finds out by a time-out.
// The kernel doubles the value.
static void reserve_window(int fd, uint32_t window) {
    const uint32_t least = 2 << 20, most = 64 << 20;
    int size = (int)(window < least / 2 ? least : window < most / 2 ? window * 2 : most);
    set(fd, SOL_SOCKET, SO_RCVBUFFORCE, size);
}

int dsr_restore_socket(const struct dsr_restore *r, const char *device) {
    int fd = open_socket(r->local.family, device);
    if (fd < 0) return fd;
    int e = dsr_repair_on(fd);
    if (e) goto failed;
    configure(fd);
    // No SO_REUSEADDR here: repair mode forces reuse, so that the bind succeeds beside the listener, and
    // the option would weaken that.
    if (r->mss) set(fd, IPPROTO_TCP, TCP_MAXSEG, r->mss);
    struct sockaddr_storage s;
    socklen_t n = to_native(&r->local, &s);
    if (bind(fd, (struct sockaddr *)&s, n)) goto error;
    if ((e = set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE)) ||
        (e = set(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, (int)r->send_next)) ||
        (e = set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE)) ||
        (e = set(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, (int)r->receive_next)))
        goto failed;
    n = to_native(&r->remote, &s);
    if (connect(fd, (struct sockaddr *)&s, n)) goto error;
    reserve_window(fd, r->window.rcv_wnd);
    struct tcp_repair_opt o[4];
    int k = 0;
    o[k++] = (struct tcp_repair_opt){2, (uint32_t)r->mss};
    o[k++] = (struct tcp_repair_opt){3, (uint32_t)(r->remote_scale | r->local_scale << 16)};
    if (r->sack) o[k++] = (struct tcp_repair_opt){4, 0};
    if (r->timestamps) o[k++] = (struct tcp_repair_opt){8, 0};
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, o, (socklen_t)(k * (int)sizeof *o))) goto error;
    // Bit 0 would switch the socket to microsecond timestamps.
    if (r->timestamps && (e = set(fd, IPPROTO_TCP, TCP_TIMESTAMP, (int)(r->timestamp & ~1u)))) goto failed;
    struct tcp_repair_window w = {r->window.snd_wl1, r->window.snd_wnd, r->window.max_window, r->window.rcv_wnd,
                                  r->window.rcv_wup};
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof w)) goto error;
    if ((e = dsr_repair_off(fd))) goto failed;
    return fd;
error:
    e = -errno;
failed:
    // Closed in repair mode, so that nothing is sent.
    dsr_repair_on(fd);
    close(fd);
    return e;
}

int dsr_epoll_wait(int epoll, struct epoll_event *events, int count, int64_t timeout_ns) {
    struct timespec t = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int n = epoll_pwait2(epoll, events, count, timeout_ns < 0 ? NULL : &t, NULL);
    return n < 0 ? (errno == EINTR ? 0 : -errno) : n;
}
