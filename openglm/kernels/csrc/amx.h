// Matrix tiles (AMX): one instruction multiplies 64 columns of sixteen tokens with 64 columns of the sixteen rows of a
// panel. Included by linear.h, inside its namespace. What a block adds to a token's sum is the same to the last bit as
// in tile_q4 and tile_q8.

enum {
  TOKENS = 16,
  SPAN = 32,
  MOST = 192
};  // tokens of a tile; blocks that are unpacked at once, for the first-level cache; tokens that share an unpacked span

struct alignas(64) TileShapes {
  uint8_t palette = 1, reserved[15] = {};
  uint16_t row_bytes[16] = {64, 64, 64};
  uint8_t rows[16] = {16, 16, 16};
};

// Scratch memory of a thread.
struct alignas(64) Bench {
  uint8_t weights[SPAN][16][64];
  Lanes sums[MOST];
  int32_t products[2][TOKENS][16];
};
thread_local Bench own_bench;

// Codes of int4 as signed bytes. In a row of a tile lie 4 columns of each row of the panel, as they do in the panel.
void unpack(Bench& bench, const uint8_t* w, int blocks) {
  const __m512i eight = _mm512_set1_epi8(8);
  for (int b = 0; b < blocks; b++, w += 32 + 512)
    for (int i = 0; i < 8; i++) {
      store(bench.weights[b][2 * i], _mm512_sub_epi8(low_half(w + 32 + 64 * i), eight));
      store(bench.weights[b][2 * i + 1], _mm512_sub_epi8(high_half(w + 32 + 64 * i), eight));
    }
}

// Blocks [first, first + count) of sixteen tokens. While the vectors scale and add one block's products, the tiles make
// those of the next.
void add_blocks(Bench& bench, const Linear& l, int token, int first, int count, const uint8_t* w, const uint8_t* codes,
                int64_t block_bytes, int64_t code_bytes, Lanes* sums) {
  const int64_t blocks = blocks_of(*l.matrix), stride = blocks * 64;
  const int8_t* x = l.codes.codes + token * stride + first * 64;
  Lanes y[TOKENS];  // in registers, if every loop over it is unrolled
#pragma GCC unroll 16
  for (int t = 0; t < TOKENS; t++) y[t] = first ? sums[t] : all16(0.f);
  for (int b = 0; b <= count; b++) {
    if (b < count) {
      _tile_zero(0);
      _tile_loadd(1, x + b * 64, stride);
      _tile_loadd(2, codes + b * code_bytes, 64);
      _tile_dpbssd(0, 1, 2);
      _tile_stored(0, bench.products[b % 2], 64);
    }
    if (b == 0) continue;
    const Lanes scales = load16((const uint16_t*)(w + (b - 1) * block_bytes));
    const float* own = l.codes.scales + token * blocks + first + b - 1;
#pragma GCC unroll 16
    for (int t = 0; t < TOKENS; t++)
      y[t] += finish(load<__m512i>(bench.products[(b - 1) % 2][t])) * (all16(own[t * blocks]) * scales);
  }
#pragma GCC unroll 16
  for (int t = 0; t < TOKENS; t++) sums[t] = y[t];
}

// As many whole sixteens of the tokens [token, end) as there are; returns where they end.
int sixteens(const Linear& l, int panel, int token, int end) {
  const GlmMatrix& m = *l.matrix;
  const int blocks = blocks_of(m), block_bytes = 32 + (m.kind == GLM_Q4 ? 512 : 1024);
  if (m.kind == GLM_F32 || m.block != 64 || end - token < TOKENS) return token;
  Bench* bench = &own_bench;
  asm(""
      : "+r"(bench));  // found once: finding it is a call, around which no vector stays in its register, and the
                       // compiler would find it again for every block
  const TileShapes shapes;
  asm volatile("ldtilecfg %0" ::"m"(shapes));  // each time, for other libraries have tiles of their own
  while (end - token >= TOKENS) {
    const int count = end - token < MOST ? (end - token) / TOKENS * TOKENS : MOST;
    for (int first = 0; first < blocks; first += SPAN) {
      const int some = blocks - first < SPAN ? blocks - first : SPAN;
      const uint8_t* w = panel_of(m, panel) + (int64_t)first * block_bytes;
      if (m.kind == GLM_Q4) unpack(*bench, w, some);
      asm volatile("" ::: "memory");  // the compiler does not see that tile instructions read what was unpacked
      const uint8_t* codes = m.kind == GLM_Q4 ? bench->weights[0][0] : w + 32;
      for (int t = 0; t < count; t += TOKENS)
        add_blocks(*bench, l, token + t, first, some, w, codes, block_bytes, m.kind == GLM_Q4 ? 1024 : block_bytes,
                   bench->sums + t);
    }
    for (int t = 0; t < count; t++) finish_panel(l, panel, token + t, bench->sums[t]);
    token += count;
  }
  _tile_release();
  return token;
}
