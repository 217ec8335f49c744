// The next token of a sequence, from its row of logits: what engine/sampling.py defines, without a pass over all tokens
// more than it takes.
#include "choose.h"

#include <math.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace {

struct Candidate {
  float weight;
  int token;
  // Heaviest first, of equal ones the first of the vocabulary.
  bool operator<(const Candidate& other) const {
    return weight != other.weight ? weight > other.weight : token < other.token;
  }
};

double sum(const std::vector<float>& weights) {
  double total = 0;
  for (float weight : weights) total += weight;
  return total;
}

// The last in order of the first `most` (0: all), of which together the first have `share` of the weight: by halves,
// and few tokens weigh much, so that lighter ones are looked at only where the heavier are not enough.
Candidate last_kept(const std::vector<float>& weights, int most, double share) {
  const double total = most ? 0 : sum(weights);
  std::vector<Candidate> near;
  for (const float lightest : {1e-2f, 1e-4f, 0.f}) {
    double held = 0;
    near.clear();
    for (int i = 0; i < (int)weights.size(); i++)
      if (weights[i] > lightest) near.push_back({weights[i], i}), held += weights[i];
    if (most ? (int)near.size() >= most : held >= share * total) break;
  }
  if (most && most < (int)near.size()) {
    std::nth_element(near.begin(), near.begin() + most, near.end());
    near.resize(most);
  }
  const auto weigh = [](auto first, auto last) {
    double weight = 0;
    for (; first < last; ++first) weight += first->weight;
    return weight;
  };
  const double wanted = share * (most ? weigh(near.begin(), near.end()) : total);
  double kept = 0;
  auto first = near.begin(), last = near.end();
  while (last - first > 1) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last);
    const double half = weigh(first, middle);
    if (kept + half >= wanted)
      last = middle;
    else
      kept += half, first = middle;
  }
  return *first;
}

}  // namespace

int choose(const Kernels& kernels, const float* logits, int count, const GlmChoice& choice, double uniform) {
  float top = -INFINITY;
  int where = 0;  // in the block that begins here
  for (int first = 0; first < count; first += GLM_WEIGHED) {
    const float most = kernels.highest(logits + first, std::min<int>(GLM_WEIGHED, count - first));
    if (isnan(most)) return -1;
    if (most > top) top = most, where = first;
  }
  if (!isfinite(top)) return -1;
  if (choice.temperature == 0) return (int)(std::find(logits + where, logits + count, top) - logits);
  static thread_local std::vector<float> weights, sums;
  weights.resize(count), sums.resize(ceil_div(count, GLM_WEIGHED));
  kernels.weigh(logits, count, top, (float)std::max(choice.temperature, 1e-7), weights.data(), sums.data());
  if (choice.min_p > 0)
    for (float& weight : weights) weight = weight < (float)choice.min_p ? 0.f : weight;
  const int most = choice.top_k < count ? choice.top_k : 0;
  if (most || choice.top_p < 1) {
    const Candidate last = last_kept(weights, most, choice.top_p);
    for (int i = 0; i < count; i++)
      if (last < Candidate{weights[i], i}) weights[i] = 0.f;
  }
  if (most || choice.top_p < 1 || choice.min_p > 0)
    for (int block = 0; block < (int)sums.size(); block++)
      sums[block] = std::accumulate(weights.begin() + block * GLM_WEIGHED,
                                    weights.begin() + std::min(count, (block + 1) * GLM_WEIGHED), 0.f);
  // The cumulated weight to reach lies in (0, total], so that no token of probability zero is ever taken.
  double total = 0, passed = 0;
  for (float sum : sums) total += sum;
  size_t block = 0;
  while (block + 1 < sums.size() && passed + sums[block] < (1 - uniform) * total) passed += sums[block++];
  int token = -1;
  for (int i = (int)block * GLM_WEIGHED; i < count && (token < 0 || passed < (1 - uniform) * total); i++)
    if (weights[i] > 0) passed += weights[i], token = i;
  return token;
}
