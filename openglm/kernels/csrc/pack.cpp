// Canonical weights into panels. The layouts are described in glm.h.
#include <string.h>

#include "kernels.h"

namespace {

struct Place {
  uint8_t* panel;
  int lane;
};

// code of (row, column): int8 codes, or nibbles in two's complement with the even column in the high half.
int code_of(int kind, const uint8_t* row, int column) {
  if (kind == GLM_Q8) return (int8_t)row[column];
  const int nibble = row[column / 2] >> (column % 2 ? 0 : 4) & 15;
  return nibble < 8 ? nibble : nibble - 16;
}

void pack_row(int kind, int columns, int block, const uint8_t* codes, const uint16_t* scales, int group, Place to) {
  const int bytes = kind == GLM_Q4 ? block * 8 : block * 16, place = to.lane / 8 * 32 + to.lane % 8 * 4;
  for (int b = 0; b < ceil_div(columns, block); b++, to.panel += 32 + bytes) {
    memcpy(to.panel + to.lane * 2, scales + b * block / group, 2);
    for (int i = 0; i < block; i++) {
      const int column = b * block + i, code = column < columns ? code_of(kind, codes, column) : 0;
      if (kind == GLM_Q8) to.panel[32 + i / 4 * 64 + place + i % 4] = (uint8_t)code;
      else to.panel[32 + i / 8 * 64 + place + i % 4] |= (uint8_t)((code + 8) << (i % 8 < 4 ? 0 : 4));
    }
  }
}

}  // namespace

extern "C" {

int64_t glm_packed_bytes(int kind, int rows, int columns, int block) { return ceil_div(rows, GLM_ROWS) * panel_bytes(kind, columns, block); }

// `out` must be zero where no row goes; a row of zero scales is zero whatever its codes.
void glm_pack(int kind, int rows, int columns, int block, const void* codes, const uint16_t* scales, int group, uint8_t* out, int first_row, int interleaved, int half) {
  const int64_t row_bytes = kind == GLM_F32 ? 4 * (int64_t)columns : kind == GLM_Q4 ? columns / 2 : columns;
  for (int r = 0; r < rows; r++) {
    const int row = first_row + r, panel = interleaved == 2 ? row / 8 : row / 16, lane = interleaved == 2 ? half * 8 + row % 8 : row % 16;
    const Place to = {out + panel * panel_bytes(kind, columns, block), lane};
    const uint8_t* from = (const uint8_t*)codes + r * row_bytes;
    if (kind == GLM_F32)
      for (int k = 0; k < columns; k++) ((float*)to.panel)[k * 16 + lane] = ((const float*)from)[k];
    else pack_row(kind, columns, block, from, scales + (int64_t)r * ceil_div(columns, group), group, to);
  }
}
}
