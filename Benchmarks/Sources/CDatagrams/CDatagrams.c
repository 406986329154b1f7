#define _GNU_SOURCE
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "include/CDatagrams.h"

struct batch {
    struct mmsghdr messages[TRAFFIC_BATCH];
    struct iovec vectors[TRAFFIC_BATCH];
};

// Returns how many there are in the batch. `room`: octets of each; 0: as long as it is.
static unsigned describe(
    struct batch *b, struct traffic_datagram *datagrams, unsigned count, size_t room, int has_peers) {
    if (count > TRAFFIC_BATCH) count = TRAFFIC_BATCH;
    memset(b->messages, 0, count * sizeof *b->messages);
    for (unsigned i = 0; i < count; i++) {
        struct traffic_datagram *datagram = datagrams + i;
        struct msghdr *header = &b->messages[i].msg_hdr;
        b->vectors[i].iov_base = datagram->octets;
        b->vectors[i].iov_len = room ? room : datagram->length;
        header->msg_iov = b->vectors + i;
        header->msg_iovlen = 1;
        if (!has_peers) continue;
        header->msg_name = &datagram->peer;
        header->msg_namelen = sizeof datagram->peer;
    }
    return count;
}

int traffic_receive(
    int descriptor, struct traffic_datagram *datagrams, unsigned count, size_t room, int waits) {
    struct batch b;
    count = describe(&b, datagrams, count, room, 1);
    int received = recvmmsg(descriptor, b.messages, count, waits ? MSG_WAITFORONE : MSG_DONTWAIT, NULL);
    for (int i = 0; i < received; i++) datagrams[i].length = b.messages[i].msg_len;
    return received;
}

int traffic_send(
    int descriptor, struct traffic_datagram *datagrams, unsigned count, int has_peers) {
    struct batch b;
    count = describe(&b, datagrams, count, 0, has_peers);
    return sendmmsg(descriptor, b.messages, count, 0);
}
