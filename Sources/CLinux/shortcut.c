#define _GNU_SOURCE
#include "shortcut.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_ATTACH_BPF
#define SO_ATTACH_BPF 50
#endif

// Since Linux 6.6; the headers of older systems do not have them, and the kernel's answer tells.
#define TCX_INGRESS 46
#define TCX_EGRESS 47
#define TCX_DROP 2

static int bpf(int command, void *attributes, unsigned size) {
    int result = (int)syscall(__NR_bpf, command, attributes, size);
    return result < 0 ? -errno : result;
}

// Instructions, as bpf(2) and Documentation/bpf/standardization/instruction-set.rst name them.
#define MOV(d, s) ((struct bpf_insn){BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0})
#define MOVI(d, i) ((struct bpf_insn){BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i})
#define ADDI(d, i) ((struct bpf_insn){BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i})
#define ANDI(d, i) ((struct bpf_insn){BPF_ALU64 | BPF_AND | BPF_K, d, 0, 0, i})
#define LOAD(size, d, s, o) ((struct bpf_insn){BPF_LDX | BPF_MEM | size, d, s, o, 0})
#define STORE(size, d, s, o) ((struct bpf_insn){BPF_STX | BPF_MEM | size, d, s, o, 0})
#define STOREI(size, d, o, i) ((struct bpf_insn){BPF_ST | BPF_MEM | size, d, 0, o, i})
#define JUMP(op, d, i, o) ((struct bpf_insn){BPF_JMP | op | BPF_K, d, 0, o, i})
#define GO(o) ((struct bpf_insn){BPF_JMP | BPF_JA, 0, 0, o, 0})
#define CALL(f) ((struct bpf_insn){BPF_JMP | BPF_CALL, 0, 0, 0, f})
#define EXIT ((struct bpf_insn){BPF_JMP | BPF_EXIT, 0, 0, 0, 0})

enum { PROGRAM_MAX = 96, PENDING_MAX = 16 };

struct program {
    struct bpf_insn code[PROGRAM_MAX];
    int count;
    // Jumps to the end, where nothing is done with the packet.
    int pending[PENDING_MAX];
    int pendings;
};

static void add(struct program *p, struct bpf_insn instruction) { p->code[p->count++] = instruction; }

// Leaves the packet alone when the comparison is true.
static void leave_if(struct program *p, struct bpf_insn jump) {
    p->pending[p->pendings++] = p->count;
    add(p, jump);
}

// Below the frame pointer: the packet's begin, so that words behind the Ethernet header are aligned, and the key.
enum { HEADER = -62, KEY = -104 };

static void load_header(struct program *p, int length) {
    add(p, MOV(BPF_REG_1, BPF_REG_6));
    add(p, MOVI(BPF_REG_2, 0));
    add(p, MOV(BPF_REG_3, BPF_REG_10));
    add(p, ADDI(BPF_REG_3, HEADER));
    add(p, MOVI(BPF_REG_4, length));
    add(p, CALL(BPF_FUNC_skb_load_bytes));
    leave_if(p, JUMP(BPF_JNE, BPF_REG_0, 0, 0));
}

static void copy_word(struct program *p, int from, int to) {
    add(p, LOAD(BPF_W, BPF_REG_1, BPF_REG_10, HEADER + from));
    add(p, STORE(BPF_W, BPF_REG_10, BPF_REG_1, KEY + to));
}

// Registers: 6 the packet, 7 the entry. The two address families share what comes behind the key.
static void build(struct program *p, int map, int is_filter, int is_ingress) {
    memset(p, 0, sizeof *p);
    add(p, MOV(BPF_REG_6, BPF_REG_1));
    add(p, LOAD(BPF_W, BPF_REG_1, BPF_REG_6, offsetof(struct __sk_buff, vlan_present)));
    int to_pass = p->count;
    add(p, JUMP(BPF_JNE, BPF_REG_1, 0, 0));
    for (int offset = 0; offset < 40; offset += 8) add(p, STOREI(BPF_DW, BPF_REG_10, KEY + offset, 0));
    // Ethernet 14, IPv4 20, TCP ports 4.
    load_header(p, 38);
    add(p, LOAD(BPF_H, BPF_REG_1, BPF_REG_10, HEADER + 12));
    int to_v6 = p->count;
    add(p, JUMP(BPF_JNE, BPF_REG_1, htons(ETH_P_IP), 0));
    add(p, LOAD(BPF_B, BPF_REG_1, BPF_REG_10, HEADER + 14));
    leave_if(p, JUMP(BPF_JNE, BPF_REG_1, 0x45, 0));
    // More fragments, or a fragment's offset.
    add(p, LOAD(BPF_H, BPF_REG_1, BPF_REG_10, HEADER + 20));
    add(p, ANDI(BPF_REG_1, htons(0x3fff)));
    leave_if(p, JUMP(BPF_JNE, BPF_REG_1, 0, 0));
    add(p, LOAD(BPF_B, BPF_REG_1, BPF_REG_10, HEADER + 23));
    leave_if(p, JUMP(BPF_JNE, BPF_REG_1, IPPROTO_TCP, 0));
    copy_word(p, 26, 0);
    copy_word(p, 30, 16);
    copy_word(p, 34, 32);
    int to_lookup = p->count;
    add(p, GO(0));
    p->code[to_v6].off = (int16_t)(p->count - to_v6 - 1);
    leave_if(p, JUMP(BPF_JNE, BPF_REG_1, htons(ETH_P_IPV6), 0));
    // Ethernet 14, IPv6 40, TCP ports 4; extension headers are left to others.
    load_header(p, 58);
    add(p, LOAD(BPF_B, BPF_REG_1, BPF_REG_10, HEADER + 20));
    leave_if(p, JUMP(BPF_JNE, BPF_REG_1, IPPROTO_TCP, 0));
    for (int word = 0; word < 8; word++) copy_word(p, 22 + word * 4, word * 4);
    copy_word(p, 54, 32);
    p->code[to_lookup].off = (int16_t)(p->count - to_lookup - 1);
    add(p, LOAD(BPF_W, BPF_REG_1, BPF_REG_6, offsetof(struct __sk_buff, ifindex)));
    add(p, STORE(BPF_W, BPF_REG_10, BPF_REG_1, KEY + 36));
    add(p, ((struct bpf_insn){BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map}));
    add(p, ((struct bpf_insn){0, 0, 0, 0, 0}));
    add(p, MOV(BPF_REG_2, BPF_REG_10));
    add(p, ADDI(BPF_REG_2, KEY));
    add(p, CALL(BPF_FUNC_map_lookup_elem));
    leave_if(p, JUMP(BPF_JEQ, BPF_REG_0, 0, 0));
    if (is_filter) {
        add(p, MOVI(BPF_REG_0, 0));
    } else {
        add(p, LOAD(BPF_W, BPF_REG_1, BPF_REG_0, 0));
        add(p, MOVI(BPF_REG_2, is_ingress ? BPF_F_INGRESS : 0));
        add(p, CALL(BPF_FUNC_redirect));
    }
    add(p, EXIT);
    for (int i = 0; i < p->pendings; i++) {
        int at = p->pending[i];
        p->code[at].off = (int16_t)(p->count - at - 1);
    }
    // A frame for another host's address is the switch's alone, which has got it by now: the kernel's IP would drop it
    // too, but later. One with a VLAN tag may be for a device of its own.
    if (is_ingress && !is_filter) {
        add(p, LOAD(BPF_W, BPF_REG_1, BPF_REG_6, offsetof(struct __sk_buff, pkt_type)));
        add(p, JUMP(BPF_JNE, BPF_REG_1, PACKET_OTHERHOST, 2));
        add(p, MOVI(BPF_REG_0, TCX_DROP));
        add(p, EXIT);
    }
    // A filter passes all octets; TCX goes on with the next program, or the stack.
    p->code[to_pass].off = (int16_t)(p->count - to_pass - 1);
    add(p, MOVI(BPF_REG_0, -1));
    add(p, EXIT);
}

static int load(int map, int is_filter, int is_ingress) {
    struct program program;
    build(&program, map, is_filter, is_ingress);
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = is_filter ? BPF_PROG_TYPE_SOCKET_FILTER : BPF_PROG_TYPE_SCHED_CLS;
    attributes.insns = (uint64_t)(uintptr_t)program.code;
    attributes.insn_cnt = (uint32_t)program.count;
    attributes.license = (uint64_t)(uintptr_t) "GPL";
    return bpf(BPF_PROG_LOAD, &attributes, sizeof attributes);
}

int dsr_shortcut_open(struct dsr_shortcut *s, uint32_t entries) {
    *s = (struct dsr_shortcut){-1, -1, -1, -1};
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_type = BPF_MAP_TYPE_HASH;
    attributes.key_size = sizeof(struct dsr_shortcut_key);
    attributes.value_size = sizeof(uint32_t);
    attributes.max_entries = entries;
    attributes.map_flags = BPF_F_NO_PREALLOC;
    int result = s->map = bpf(BPF_MAP_CREATE, &attributes, sizeof attributes);
    if (result >= 0) result = s->filter = load(s->map, 1, 0);
    if (result >= 0) result = s->ingress = load(s->map, 0, 1);
    if (result >= 0) result = s->egress = load(s->map, 0, 0);
    if (result >= 0) return 0;
    dsr_shortcut_close(s);
    return result;
}

void dsr_shortcut_close(struct dsr_shortcut *s) {
    int *descriptors[] = {&s->map, &s->ingress, &s->egress, &s->filter};
    for (int i = 0; i < 4; i++) {
        if (*descriptors[i] >= 0) close(*descriptors[i]);
        *descriptors[i] = -1;
    }
}

int dsr_shortcut_attach(int program, int ifindex, int is_egress) {
    // The begin of union bpf_attr for BPF_LINK_CREATE.
    struct {
        uint32_t program, target, type, flags;
        uint64_t rest[4];
    } attributes = {(uint32_t)program, (uint32_t)ifindex, is_egress ? TCX_EGRESS : TCX_INGRESS, 0, {0}};
    return bpf(BPF_LINK_CREATE, &attributes, sizeof attributes);
}

static int element(int command, int map, const struct dsr_shortcut_key *key, const uint32_t *value) {
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map_fd = (uint32_t)map;
    attributes.key = (uint64_t)(uintptr_t)key;
    attributes.value = (uint64_t)(uintptr_t)value;
    int result = bpf(command, &attributes, sizeof attributes);
    return result < 0 ? result : 0;
}

int dsr_shortcut_set(int map, const struct dsr_shortcut_key *key, uint32_t ifindex) {
    return element(BPF_MAP_UPDATE_ELEM, map, key, &ifindex);
}

int dsr_shortcut_remove(int map, const struct dsr_shortcut_key *key) {
    return element(BPF_MAP_DELETE_ELEM, map, key, NULL);
}

int dsr_shortcut_filter(int socket, int program) {
    return setsockopt(socket, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof program) < 0 ? -errno : 0;
}
