// Canonical weights into panels. The layouts are described in glm.h.
#include <string.h>

#include "kernels.h"
#include "pool.h"

namespace {

struct Pack {
  int kind, rows, columns, block;
  const uint8_t* codes;
  const uint16_t* scales;
  int group;
  uint8_t* out;
  int first_row, interleaved, half;

  void operator()(int first, int last) const {
    const int height = 16 / interleaved;  // rows that a matrix has in a panel
    for (int r = first, end; r < last; r = end) {
      const int row = first_row + r, lane = (interleaved == 2 ? half * 8 : 0) + row % height;
      uint8_t* to = out + row / height * panel_bytes(kind, columns, block);
      end = r + height - row % height < last ? r + height - row % height : last;
      if (kind == GLM_F32)
        pack_floats(r, end - r, (float*)to + lane);
      else
        for (int i = 0; i < end - r; i++) pack_codes(r + i, to, lane + i);
    }
  }

  // Rows of one panel, some columns of all at a time: what they write stays in the first-level cache until it is whole.
  void pack_floats(int row, int count, float* to) const {
    enum { AT_ONCE = 128 };
    const float* from = (const float*)codes + (int64_t)row * columns;
    for (int k = 0; k < columns; k += AT_ONCE) {
      const int end = k + AT_ONCE < columns ? k + AT_ONCE : columns;
      for (int i = 0; i < count; i++)
        for (int c = k; c < end; c++) to[c * 16 + i] = from[(int64_t)i * columns + c];
    }
  }

  // Groups of 4 bytes: 8 columns of int4, 4 of int8. Beyond the last column anything may stand: activations are zero
  // there.
  void pack_codes(int row, uint8_t* to, int lane) const {
    const int64_t bytes = kind == GLM_Q4 ? columns / 2 : columns, groups = ceil_div(columns, group);
    const int per_block = block / (kind == GLM_Q4 ? 8 : 4), offset = lane / 8 * 32 + lane % 8 * 4;
    const uint8_t* from = codes + row * bytes;
    for (int64_t i = 0, b = 0; i < bytes; b++, to += 32 + per_block * 64) {
      memcpy(to + lane * 2, scales + row * groups + b * block / group, 2);
      for (int unit = 0; unit < per_block && i < bytes; unit++, i += 4) {
        uint8_t c[4] = {};
        memcpy(c, from + i, (size_t)(bytes - i < 4 ? bytes - i : 4));
        uint8_t* target = to + 32 + unit * 64 + offset;
        if (kind == GLM_Q8) {
          memcpy(target, c, 4);
        } else {  // columns 0..3 below 4..7; adding 8 to a number of four bits turns its highest one
          const uint8_t packed[4] = {(uint8_t)(c[0] >> 4 | (c[2] & 0xf0)), (uint8_t)((c[0] & 15) | c[2] << 4),
                                     (uint8_t)(c[1] >> 4 | (c[3] & 0xf0)), (uint8_t)((c[1] & 15) | c[3] << 4)};
          for (int j = 0; j < 4; j++) target[j] = packed[j] ^ 0x88;
        }
      }
    }
  }
};

}  // namespace

extern "C" {

int64_t glm_packed_bytes(int kind, int rows, int columns, int block) {
  return ceil_div(rows, GLM_ROWS) * panel_bytes(kind, columns, block);
}

// `out` must be zero where no row goes; a row of zero scales is zero whatever its codes.
void glm_pack(int kind, int rows, int columns, int block, const void* codes, const uint16_t* scales, int group,
              uint8_t* out, int first_row, int interleaved, int half) {
  Pack pack = {kind, rows, columns, block, (const uint8_t*)codes, scales, group, out, first_row, interleaved, half};
  Pool::run(
      [](void* argument, Phases& phases) {
        const Pack& p = *(const Pack*)argument;
        phases.share(p.rows, p);
      },
      &pack);
}
}
