// Packet sockets and TAP devices: structures with macros, unions and flexible members.
#pragma once
#include <net/if.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>

struct mmsghdr;
struct iovec;

// A batch of messages for recvmmsg and sendmmsg, each with one buffer and room for one tpacket_auxdata.
struct dsr_batch {
    unsigned capacity;
    struct mmsghdr *_Nullable messages;
    struct iovec *_Nullable vectors;
    char *_Nullable control;
};

void dsr_batch_init(struct dsr_batch *_Nonnull b, unsigned capacity, int with_control);

void dsr_batch_free(struct dsr_batch *_Nonnull b);

void dsr_batch_set(struct dsr_batch *_Nonnull b, unsigned i, void *_Nonnull base, size_t length);

void *_Nonnull dsr_batch_base(struct dsr_batch *_Nonnull b, unsigned i);

int dsr_batch_receive(struct dsr_batch *_Nonnull b, int fd, unsigned count);

// Length of message i; -1 when it was truncated.
int dsr_batch_length(struct dsr_batch *_Nonnull b, unsigned i);

// The VLAN tag that the kernel took off message i: TPID << 16 | TCI; 0 when there was none.
uint32_t dsr_batch_vlan(struct dsr_batch *_Nonnull b, unsigned i);

// Sends messages first ..< first + count; the number sent, or -1 with errno.
int dsr_batch_send(struct dsr_batch *_Nonnull b, int fd, unsigned first, unsigned count);

// Opens a packet socket with virtio header on `device`. Returns the descriptor or -errno.
int dsr_packet_open(const char *_Nonnull device, int buffer_size, int *_Nonnull ifindex);

// Last step, so that no frame of another device or without options is seen. 0 or -errno.
int dsr_packet_bind(int fd, int ifindex);

// TPACKET_V2 receive ring: 0 or -errno. `reserve`: octets before the frame, virtio header included.
int dsr_ring_setup(int fd, unsigned block_size, unsigned blocks, unsigned reserve);

int dsr_ring_ready(void *_Nonnull slot);

void dsr_ring_release(void *_Nonnull slot);

void *_Nonnull dsr_ring_frame(void *_Nonnull slot);

// Length of the frame; -1 when it did not fit.
int dsr_ring_length(void *_Nonnull slot);

uint32_t dsr_ring_vlan(void *_Nonnull slot);

// Frames that the kernel dropped since the last call.
unsigned dsr_packet_drops(int fd);

// For questions about devices of the calling thread's namespace; -1: none.
int dsr_device_socket(void);

// IFF_ flags of a device, its ifindex and MTU; -errno when it does not exist. Takes the kernel's rtnl lock.
int dsr_device_flags(int fd, const char *_Nonnull device, int *_Nonnull ifindex, int *_Nonnull mtu);

// Makes a TAP device with virtio header and offloads, sets its MAC, queue length and MTU, brings it up.
// Returns the descriptor or -errno.
int dsr_tap_open(const char *_Nonnull name, const uint8_t *_Nonnull mac, int mtu, int *_Nonnull ifindex);

// Waits up to 100 us until the descriptor takes more.
void dsr_wait_writable(int fd);

// Waits until one of the descriptors has something, or the time is over. As poll(2).
int dsr_poll(struct pollfd *_Nonnull entries, unsigned count, const struct timespec *_Nonnull time);
