// The next token of a sequence, from its row of logits: what engine/sampling.py defines, without a pass over all tokens
// more than it takes.
#include "choose.h"

#include <math.h>

#include <algorithm>
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

// What a temperature and min-p leave of each token's weight; the likeliest has 1.
struct Weights {
  std::vector<float> of, sums;  // of tokens, and of each GLM_WEIGHED of them

  double total() const {
    double total = 0;
    for (float sum : sums) total += sum;
    return total;
  }

  void leave_out_below(float least) {
    for (size_t block = 0; block < sums.size(); block++) {
      sums[block] = 0;
      for (size_t i = block * GLM_WEIGHED; i < std::min(of.size(), (block + 1) * GLM_WEIGHED); i++)
        sums[block] += of[i] = of[i] < least ? 0.f : of[i];
    }
  }

  // Those that `pass`, in the order of the vocabulary. Where all together weigh less than `least`, nobody looks.
  template <class Pass>
  void gather(float least, std::vector<Candidate>& found, Pass pass) const {
    found.clear();
    for (int block = 0; block < (int)sums.size(); block++) {
      const int first = block * GLM_WEIGHED, last = std::min<int>((int)of.size(), first + GLM_WEIGHED);
      for (int i = first; i < last && sums[block] >= least; i++)
        if (pass(Candidate{of[i], i})) found.push_back({of[i], i});
    }
  }
};

// The last in order of the first `most` (0: all), of which together the first have `share` of the weight: by halves,
// and few tokens weigh much, so that lighter ones are looked at only where the heavier are not enough.
Candidate last_kept(const Weights& weights, int most, double share, std::vector<Candidate>& near) {
  const double total = most ? 0 : weights.total();
  for (const float lightest : {1e-2f, 1e-4f, 0.f}) {
    double held = 0;
    weights.gather(lightest, near, [&](Candidate each) {
      const bool heavy = each.weight > lightest;
      held += heavy ? each.weight : 0;
      return heavy;
    });
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
  static thread_local Weights weights;
  static thread_local std::vector<Candidate> kept;
  weights.of.resize(count), weights.sums.resize(ceil_div(count, GLM_WEIGHED));
  kernels.weigh(logits, count, top, (float)std::max(choice.temperature, 1e-7), weights.of.data(), weights.sums.data());
  if (choice.min_p > 0) weights.leave_out_below((float)choice.min_p);
  // The cumulated weight to reach lies in (0, total], so that no token of probability zero is ever taken.
  double passed = 0, total = 0;
  int token = -1;
  const int most = choice.top_k < count ? choice.top_k : 0;
  if (most || choice.top_p < 1) {
    const Candidate last = last_kept(weights, most, choice.top_p, kept);
    weights.gather(last.weight, kept, [&](Candidate each) { return !(last < each); });
    for (const Candidate& each : kept) total += each.weight;
    for (size_t i = 0; i < kept.size() && (token < 0 || passed < (1 - uniform) * total); i++)
      passed += kept[i].weight, token = kept[i].token;
    return token;
  }
  total = weights.total();
  size_t block = 0;
  while (block + 1 < weights.sums.size() && passed + weights.sums[block] < (1 - uniform) * total)
    passed += weights.sums[block++];
  for (int i = (int)block * GLM_WEIGHED; i < count && (token < 0 || passed < (1 - uniform) * total); i++)
    if (weights.of[i] > 0) passed += weights.of[i], token = i;
  return token;
}
