// Several datagrams by one system call: recvmmsg and sendmmsg, which Swift does not see.
#pragma once

#include <netinet/in.h>
#include <stddef.h>

// Datagrams of one call, at most.
#define TRAFFIC_BATCH 64

struct traffic_datagram {
    void *_Nonnull octets;
    size_t length;
    struct sockaddr_in peer;
};

// Receives up to `count` datagrams, of each as many octets as there is `room` for. With `waits` the call blocks until
// there is one. Returns how many have come, or -1 with errno.
int traffic_receive(
    int descriptor, struct traffic_datagram *_Nonnull datagrams, unsigned count, size_t room, int waits);

// Sends `count` datagrams, with `has_peers` each to its own one. Returns how many have gone, or -1 with errno.
int traffic_send(
    int descriptor, struct traffic_datagram *_Nonnull datagrams, unsigned count, int has_peers);
