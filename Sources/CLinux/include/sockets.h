// TCP sockets as the splice needs them: positions, queues, options; event waiting.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

// An address and port; `family` 4 or 6. Octets in network order, IPv4 in the first four.
struct dsr_address {
    int family;
    uint8_t octets[16];
    uint16_t port;
};

// What TCP_INFO says of a connection.
struct dsr_tcp_info {
    int state;  // 1 = ESTABLISHED, 2 = SYN_SENT
    int timestamps, sack, window_scale;
    uint8_t send_scale, receive_scale;
    uint32_t send_mss, rtt_us, unacked, retransmits;
    uint64_t bytes_received, bytes_acked;
};

struct dsr_repair_window {
    uint32_t snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup;
};

// All return 0, a count or a descriptor; or -errno.
int dsr_listen(const struct dsr_address *_Nonnull address, const char *_Nullable device, int backlog);
int dsr_accept(int fd, struct dsr_address *_Nonnull local, struct dsr_address *_Nonnull remote);
int dsr_connect(const struct dsr_address *_Nonnull local, const struct dsr_address *_Nonnull remote,
                const char *_Nullable device, int mss, int window_clamp);
int dsr_socket_error(int fd);
int dsr_tcp_info_read(int fd, struct dsr_tcp_info *_Nonnull info);
// The client's SYN, from the IP header on; returns its length.
int dsr_saved_syn(int fd, uint8_t *_Nonnull buffer, int size);
int dsr_set_window_clamp(int fd, int clamp);
int dsr_set_reset(int fd);
int dsr_receive_queue(int fd);
int dsr_send_queue(int fd);
long dsr_receive(int fd, void *_Nonnull buffer, size_t size);
// Into the first buffer, and what is more into the second.
long dsr_receive_two(int fd, void *_Nonnull first, size_t first_size, void *_Nonnull second, size_t second_size);
long dsr_send(int fd, const void *_Nonnull buffer, size_t size);
int dsr_shutdown_write(int fd);

int dsr_repair_on(int fd);
int dsr_repair_off(int fd);
int dsr_queue_sequence(int fd, int is_send, uint32_t *_Nonnull value);
int dsr_repair_window_read(int fd, struct dsr_repair_window *_Nonnull window);
int dsr_timestamp_read(int fd, uint32_t *_Nonnull value);

struct dsr_restore {
    struct dsr_address local, remote;
    uint32_t receive_next, send_next, timestamp;
    struct dsr_repair_window window;
    int mss, remote_scale, local_scale, sack, timestamps;
};
// A new established socket at these positions.
int dsr_restore_socket(const struct dsr_restore *_Nonnull r, const char *_Nullable device);

int dsr_epoll_wait(int epoll, struct epoll_event *_Nonnull events, int count, int64_t timeout_ns);
