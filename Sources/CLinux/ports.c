// Packet sockets and TAP devices.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <net/if_arp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "include/ports.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

enum { DSR_CONTROL_SIZE = 64 };

void dsr_batch_init(struct dsr_batch *b, unsigned capacity, int with_control) {
    b->capacity = capacity;
    b->messages = (struct mmsghdr *)calloc(capacity, sizeof *b->messages);
    b->vectors = (struct iovec *)calloc(capacity, sizeof *b->vectors);
    b->control = (char *)calloc(capacity, DSR_CONTROL_SIZE);
    for (unsigned i = 0; i < capacity; i++) {
        b->messages[i].msg_hdr.msg_iov = &b->vectors[i];
        b->messages[i].msg_hdr.msg_iovlen = 1;
        if (with_control) b->messages[i].msg_hdr.msg_control = b->control + i * DSR_CONTROL_SIZE;
    }
}

void dsr_batch_free(struct dsr_batch *b) {
    free(b->messages);
    free(b->vectors);
    free(b->control);
}

void dsr_batch_set(struct dsr_batch *b, unsigned i, void *base, size_t length) {
    b->vectors[i].iov_base = base;
    b->vectors[i].iov_len = length;
}

void *dsr_batch_base(struct dsr_batch *b, unsigned i) { return b->vectors[i].iov_base; }

int dsr_batch_receive(struct dsr_batch *b, int fd, unsigned count) {
    for (unsigned i = 0; i < count; i++) b->messages[i].msg_hdr.msg_controllen = DSR_CONTROL_SIZE;
    return recvmmsg(fd, b->messages, count, MSG_DONTWAIT, NULL);
}

// Length of message i; -1 when it was truncated.
int dsr_batch_length(struct dsr_batch *b, unsigned i) {
    return b->messages[i].msg_hdr.msg_flags & MSG_TRUNC ? -1 : (int)b->messages[i].msg_len;
}

// The VLAN tag that the kernel took off message i: TPID << 16 | TCI; 0 when there was none.
uint32_t dsr_batch_vlan(struct dsr_batch *b, unsigned i) {
    struct msghdr *m = &b->messages[i].msg_hdr;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA) continue;
        struct tpacket_auxdata a;
        memcpy(&a, CMSG_DATA(c), sizeof a);
        if (!(a.tp_status & TP_STATUS_VLAN_VALID)) return 0;
        uint32_t tpid = a.tp_status & TP_STATUS_VLAN_TPID_VALID ? a.tp_vlan_tpid : ETH_P_8021Q;
        return tpid << 16 | a.tp_vlan_tci;
    }
    return 0;
}

// Sends messages first ..< first + count; the number sent, or -1 with errno.
int dsr_batch_send(struct dsr_batch *b, int fd, unsigned first, unsigned count) {
    return sendmmsg(fd, b->messages + first, count, MSG_DONTWAIT);
}

// Opens a packet socket with virtio header on `device`. Returns the descriptor or -errno.
int dsr_packet_open(const char *device, int buffer_size, int *ifindex) {
    int index = (int)if_nametoindex(device);
    if (!index) return -ENODEV;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    int one = 1;
    struct sockaddr_ll address;
    struct packet_mreq membership;
    memset(&address, 0, sizeof address);
    memset(&membership, 0, sizeof membership);
    membership.mr_ifindex = index;
    membership.mr_type = PACKET_MR_PROMISC;
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = index;
    if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) ||
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) ||
        setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one))
        goto fail;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_size, sizeof buffer_size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer_size, sizeof buffer_size);
    if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership)) goto fail;
    *ifindex = index;
    return fd;
fail : {
    int e = errno;
    close(fd);
    return -e;
}
}

// Last step, so that no frame of another device or without options is seen. 0 or -errno.
int dsr_packet_bind(int fd, int ifindex) {
    struct sockaddr_ll address;
    memset(&address, 0, sizeof address);
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = ifindex;
    return bind(fd, (struct sockaddr *)&address, sizeof address) ? -errno : 0;
}

// TPACKET_V2 receive ring: 0 or -errno. `reserve`: octets before the frame, virtio header included.
int dsr_ring_setup(int fd, unsigned block_size, unsigned blocks, unsigned reserve) {
    int version = TPACKET_V2;
    struct tpacket_req request;
    memset(&request, 0, sizeof request);
    request.tp_block_size = block_size;
    request.tp_block_nr = blocks;
    request.tp_frame_size = block_size;
    request.tp_frame_nr = blocks;
    if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version)) return -errno;
    if (setsockopt(fd, SOL_PACKET, PACKET_RESERVE, &reserve, sizeof reserve)) return -errno;
    if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request)) return -errno;
    return 0;
}

int dsr_ring_ready(void *slot) {
    return (__atomic_load_n(&((struct tpacket2_hdr *)slot)->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) != 0;
}
void dsr_ring_release(void *slot) {
    __atomic_store_n(&((struct tpacket2_hdr *)slot)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}
void *dsr_ring_frame(void *slot) {
    return (char *)slot + ((struct tpacket2_hdr *)slot)->tp_mac;
}
// Length of the frame; -1 when it did not fit.
int dsr_ring_length(void *slot) {
    struct tpacket2_hdr *h = (struct tpacket2_hdr *)slot;
    return h->tp_snaplen < h->tp_len ? -1 : (int)h->tp_snaplen;
}
uint32_t dsr_ring_vlan(void *slot) {
    struct tpacket2_hdr *h = (struct tpacket2_hdr *)slot;
    if (!(h->tp_status & TP_STATUS_VLAN_VALID)) return 0;
    uint32_t tpid = h->tp_status & TP_STATUS_VLAN_TPID_VALID ? h->tp_vlan_tpid : ETH_P_8021Q;
    return tpid << 16 | h->tp_vlan_tci;
}

// Frames that the kernel dropped since the last call.
unsigned dsr_packet_drops(int fd) {
    struct tpacket_stats s;
    socklen_t n = sizeof s;
    return getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &s, &n) ? 0 : s.tp_drops;
}

// For questions about devices of the calling thread's namespace; -1: none.
int dsr_device_socket(void) { return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); }

// IFF_ flags of a device, its ifindex and MTU; -errno when it does not exist. Takes the kernel's rtnl lock.
int dsr_device_flags(int fd, const char *device, int *ifindex, int *mtu) {
    struct ifreq r;
    memset(&r, 0, sizeof r);
    strncpy(r.ifr_name, device, IFNAMSIZ - 1);
    int result;
    if (ioctl(fd, SIOCGIFINDEX, &r)) result = -errno;
    else {
        *ifindex = r.ifr_ifindex;
        *mtu = ioctl(fd, SIOCGIFMTU, &r) ? 0 : r.ifr_mtu;
        result = ioctl(fd, SIOCGIFFLAGS, &r) ? -errno : (unsigned short)r.ifr_flags;
        // IFF_RUNNING is the operational state, which the kernel's link watch follows up to a second late.
        // The carrier is known at once, and asking for it makes the link watch catch up.
        struct ethtool_value link;
        memset(&link, 0, sizeof link);
        link.cmd = ETHTOOL_GLINK;
        r.ifr_data = (char *)&link;
        if (result >= 0 && !ioctl(fd, SIOCETHTOOL, &r)) {
            if (link.data && (result & IFF_UP)) result |= IFF_RUNNING;
            else result &= ~IFF_RUNNING;
        }
    }
    return result;
}

// Makes a TAP device with virtio header and offloads, sets its MAC, queue length and MTU, brings it up.
// Returns the descriptor or -errno.
int dsr_tap_open(const char *name, const uint8_t *mac, int mtu, int *ifindex) {
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -errno;
    struct ifreq r;
    int header = 10, e;
    memset(&r, 0, sizeof r);
    strncpy(r.ifr_name, name, IFNAMSIZ - 1);
    r.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL);
    if (ioctl(fd, TUNSETIFF, &r) || ioctl(fd, TUNSETVNETHDRSZ, &header) ||
        ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)) {
        e = errno;
        close(fd);
        return -e;
    }
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0) {
        e = errno;
        close(fd);
        return -e;
    }
    r.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(r.ifr_hwaddr.sa_data, mac, 6);
    int failed = ioctl(s, SIOCSIFHWADDR, &r);
    if (!failed) {
        r.ifr_qlen = 10000;
        ioctl(s, SIOCSIFTXQLEN, &r);
        if (mtu) {
            r.ifr_mtu = mtu;
            failed = ioctl(s, SIOCSIFMTU, &r);
        }
    }
    if (!failed && !(failed = ioctl(s, SIOCGIFFLAGS, &r))) {
        r.ifr_flags |= IFF_UP | IFF_RUNNING;
        failed = ioctl(s, SIOCSIFFLAGS, &r);
    }
    if (!failed && !(failed = ioctl(s, SIOCGIFINDEX, &r))) *ifindex = r.ifr_ifindex;
    e = errno;
    close(s);
    if (failed) {
        close(fd);
        return -e;
    }
    return fd;
}

void dsr_wait_writable(int fd) {
    struct pollfd p = {fd, POLLOUT, 0};
    struct timespec t = {0, 100000};
    ppoll(&p, 1, &t, NULL);
}

int dsr_poll(struct pollfd *entries, unsigned count, const struct timespec *time) {
    return ppoll(entries, count, time, NULL);
}
