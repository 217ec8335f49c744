// The next token of a sequence, from its row of logits.
#pragma once
#include "kernels.h"

int choose(const Kernels& kernels, const float* logits, int count, const GlmChoice& choice, double uniform);
