"""What blocks of files contain: whose they are, and of which write."""
import random
import struct
import zlib

BLOCK = 4096
MAGIC = b"DSRNFSLOAD1\0"
STAMP = struct.Struct("<12sIIIQQQ12s")  # magic, checksum, export, file, block, generation, seed
STAMP_BODY = struct.Struct("<IIQQQ")
POOL = 1 << 20


class Pattern:
    def __init__(self, seed):
        self.seed = seed & (1 << 64) - 1
        # The same in every process, so that blocks of an earlier load are recognised for what they are.
        self.pool = memoryview(random.Random(20012).randbytes(POOL + BLOCK))

    def data(self, export, file, first, generations):
        """Blocks from the first on, one for each generation."""
        parts = []
        pack, fields, crc, pool = STAMP.pack, STAMP_BODY.pack, zlib.crc32, self.pool
        seed, length = self.seed, BLOCK - STAMP.size
        offset = export * 131071 + file * 65599 + seed
        for block, generation in enumerate(generations, first):
            checksum = crc(fields(export, file, block, generation, seed))
            parts.append(pack(MAGIC, checksum, export, file, block, generation, seed, b""))
            at = (block * 2654435761 + generation * 40503 + offset) % POOL
            parts.append(pool[at:at + length])
        return b"".join(parts)

    def explain(self, found, export, file, block, allowed):
        """Says what is wrong with a block; None when it is one of the generations allowed."""
        magic, checksum, its_export, its_file, its_block, generation, seed, _ = STAMP.unpack(
            found[:STAMP.size])
        if magic != MAGIC or checksum != zlib.crc32(
                STAMP_BODY.pack(its_export, its_file, its_block, generation, seed)):
            return "foreign", f"no stamp: {bytes(found[:32]).hex()}"
        seen = (f"holds export {its_export} file {its_file} block {its_block} generation {generation}"
                + ("" if seed == self.seed else " of another run"))
        if (its_export, its_file, its_block, seed) != (export, file, block, self.seed):
            return "misplaced", seen
        expected = self.data(export, file, block, [generation])
        if expected != found:
            at = next(i for i in range(BLOCK) if expected[i] != found[i])
            return "torn", f"{seen}, differs from octet {at} on"
        if generation in allowed:
            return None
        newest = max(allowed)
        return ("stale" if generation < newest else "unknown"), f"{seen}, newest is {newest}"
