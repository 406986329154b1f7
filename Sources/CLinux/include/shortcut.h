// eBPF programs that pass the packets of chosen TCP connections between a network port and a CPU port inside the
// kernel (bpf(2)). Without libbpf: they are some forty instructions each.
#pragma once

#include <stdint.h>

// What a packet is looked up by: addresses as they are in the packet (IPv4 in the first 4 octets), ports in network
// order, the device where it is met.
struct dsr_shortcut_key {
    uint8_t source[16];
    uint8_t destination[16];
    uint16_t source_port;
    uint16_t destination_port;
    uint32_t ifindex;
};

// Descriptors, -1 while not there.
struct dsr_shortcut {
    int map;       // key to the index of the device that gets the packet
    int ingress;   // at a network port: to where the packet is received
    int egress;    // at a CPU port: to where the packet is sent
    int filter;    // at a packet socket: packets of the map's are not seen
};

// 0, or -errno; then nothing is left open.
int dsr_shortcut_open(struct dsr_shortcut *_Nonnull s, uint32_t entries);
void dsr_shortcut_close(struct dsr_shortcut *_Nonnull s);
// Attaches a program to a device (TCX, Linux 6.6). Returns a descriptor that keeps it attached, or -errno.
int dsr_shortcut_attach(int program, int ifindex, int is_egress);
// 0 or -errno.
int dsr_shortcut_set(int map, const struct dsr_shortcut_key *_Nonnull key, uint32_t ifindex);
int dsr_shortcut_remove(int map, const struct dsr_shortcut_key *_Nonnull key);
int dsr_shortcut_filter(int socket, int program);
