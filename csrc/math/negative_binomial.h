// The negative binomial probability of a count x, and its mixture with zero, from s = log m and r = log t:
//
//   log p = log Gamma(x + t) - log Gamma(t) - log x! + x log(m / (t + m)) + t log(t / (t + m))
//
// These terms cancel, so they are not computed. With n = x + t, T = t + m, c = 3 and y_z = 1 / (z + c), Stirling's
// formula for Gamma(z + c) turns them into
//
//   -x d(u_x) - t d(u_t) - c (t / T) (m y_x + x y_t) + log(y_t y_x / y_n) / 2 + c - log(2 pi) / 2
//   + log[(t / n) product_i (t + i) y_t (x + i) y_x / ((n + i) y_n)] + remainders of Stirling's formula,
//
// where d(u) = u - log(1 + u) >= 0, u_x = (n + c) m y_x / T - 1, u_t = (n + c) t y_t / T - 1 and i is 1 and 2. No term
// is larger than the deviance of the count plus a few nats. All arithmetic is in float64, whatever the dtype of the
// tensors: a difference x - m of float32 numbers would lose the digits that matter. At x = 0, log p = t log(t / T).
//
// log m and log t are limited to where m and t are normal numbers. Beyond the limits log p is linear in them.
#pragma once

#include "density.h"
#include "logarithm.h"
#include "stirling.h"

namespace iwae {
namespace IWAE_ISA {

// Formulas for one result dtype; Math computes in float64.
template <class Math, class Result>
struct NegativeBinomial {
  using Value = typename Math::Value;
  static constexpr double kShift = kStirlingFrom;  // c
  static constexpr double kLowestTheta = -230.0, kLowestMean = -700.0, kHighest = 700.0;

  Value x, m, t, n;
  Value per_total;   // 1 / T
  Value share;       // t / T
  Value excess;      // (x - m) t / T = d log p / ds
  Value y_t, y_n;
  Value beyond_s, beyond_r;  // what the limits take from s and r, positive above and negative below
  Logarithm<Value> of_theta;   // of 1 + u_t

  IWAE_EVERYWHERE NegativeBinomial(Value count, Value s, Value r) : x(count) {
    const Value theta = within(r, kLowestTheta);
    // If t is too small, m keeps its ratio to t, unless m is so much larger that the ratio is as good as infinite.
    const Value ratio = Math::min(s - Math::max(r, Math::all(-1e6)), Math::all(100.0));
    s = r < Math::all(kLowestTheta) ? Math::max(s, ratio + kLowestTheta) : s;
    const Value mean = within(s, kLowestMean);
    beyond_s = s - mean;
    beyond_r = r - theta;
    m = Math::exp(mean);
    t = Math::exp(theta);
    n = x + t;
    per_total = Math::divide(Math::one(), t + m);
    share = t * per_total;
    excess = (x - m) * share;
    y_t = Math::divide(Math::one(), t + kShift);
    y_n = Math::divide(Math::one(), n + kShift);
    const Value u = (excess - m * per_total * kShift) * y_t;
    of_theta = logarithm<Math, Result>(u, t * n_of_total() * y_t);
  }

  // The limits of log m or log t; NaN stays NaN.
  IWAE_EVERYWHERE static Value within(Value number, double lowest) {
    return Math::min(Math::max(number, Math::all(lowest)), Math::all(kHighest));
  }

  IWAE_EVERYWHERE Value n_of_total() const { return (n + kShift) * per_total; }

  // (z + 1) (z + 2) y_z^2
  IWAE_EVERYWHERE static Value product(Value y) { return (Math::one() - y) * (Math::one() - y * 2.0); }

  IWAE_EVERYWHERE Logarithm<Value> of_mean(Value y_x) const {
    return logarithm<Math, Result>(-(excess + share * kShift) * y_x, m * n_of_total() * y_x);
  }

  // log p at x = 0
  IWAE_EVERYWHERE Value zero() const { return t * of_theta.log + above_mean(); }

  // What s adds beyond its upper limit: so much that log p is -inf if r is beyond its own.
  IWAE_EVERYWHERE Value above_mean() const {
    const Value above = Math::min(Math::max(beyond_r, Math::zero()), Math::all(1e3));
    return Math::max(beyond_s, Math::zero()) * excess * (above * 1e6 + Math::one());
  }

  // log p + log(factor) for x > 0. One logarithm is computed for all that is not a deviance.
  IWAE_EVERYWHERE Value counted(Value factor) const {
    constexpr double kConstant = kShift - 0.91893853320467274178;  // log(2 pi) / 2
    const Value y_x = Math::divide(Math::one(), x + kShift);
    const Value products = Math::divide(t * product(y_t) * product(y_x) * factor, n * product(y_n));
    const Value logs = logarithm<Math, Result>(y_x * ((n + kShift) * y_t) * products * products);
    const Value remainders = stirling_remainder<Math, Result>(y_n) - stirling_remainder<Math, Result>(y_t) -
                             stirling_remainder<Math, Result>(y_x);
    const Value linear = share * (m * y_x + x * y_t) * kShift;
    const Value deviance = x * of_mean(y_x).deviation + t * of_theta.deviation;
    const Value below = x * Math::min(beyond_s, Math::zero()) + Math::min(beyond_r, Math::zero());
    return (logs * 0.5 + remainders + kConstant - linear) - deviance + (below + above_mean());
  }

  IWAE_EVERYWHERE Value log_prob() const { return x == Math::zero() ? zero() : counted(Math::one()); }

  // d log p / dr = t [digamma(n) - digamma(t) + log(t / T) + 1 - n / T]
  IWAE_EVERYWHERE Value theta_slope() const {
    const Value near = (Math::one() - y_t) * (Math::one() - y_n);
    const Value far = (Math::one() - y_t * 2.0) * (Math::one() - y_n * 2.0);
    const Value reciprocals = Math::divide(near + far, near * far) + 0.5;
    const Value t_y = t * y_t;
    const Value counts = Math::divide(x, n) + t_y * (x * y_n) * reciprocals - share * x * y_t * kShift;
    const Value slope_t = t_y * y_t * stirling_slope<Math, Result>(y_t);
    const Value slope_n = t * y_n * y_n * stirling_slope<Math, Result>(y_n);
    return counts + (slope_t - slope_n) - t * of_theta.deviation;
  }

  // d log p / dx = digamma(n) - digamma(x + 1) + log(m / T), as if the count were a real number
  IWAE_EVERYWHERE Value count_slope() const {
    const Value y_x = Math::divide(Math::one(), x + kShift);
    const Value log = of_mean(y_x).log + Math::min(beyond_s, Math::zero());
    return log + digamma_less_log(y_x) - digamma_less_log(y_n) - Math::divide(Math::one(), n);
  }

 private:
  // log(z + c) - digamma(z + 1)
  IWAE_EVERYWHERE static Value digamma_less_log(Value y) {
    const Value near = Math::one() - y * 2.0, far = Math::one() - y;
    return y * (Math::divide(near + far, near * far) + 0.5 + y * stirling_slope<Math, Result>(y));
  }
};

// The mixture: with probability d the count is replaced by 0; `logits` are those of d.
template <class Math, class Result>
struct ZeroInflation {
  using Value = typename Math::Value;

  Value logits, positive;  // max(logits, 0)
  Value power;             // exp(-|logits|)

  IWAE_EVERYWHERE explicit ZeroInflation(Value l)
      : logits(Math::min(Math::max(l, Math::all(-1e300)), Math::all(1e300))),
        positive(Math::max(l, Math::zero())),
        power(Math::exp(Math::minus_abs(logits))) {}

  // log of the probability of 0 from that of a counted 0: log(d + (1 - d) p)
  IWAE_EVERYWHERE Value zero(Value log_p) const {
    const Value other = Math::exp(Math::minus_abs(logits - log_p));
    const Value per = Math::divide(Math::one(), Math::one() + power);
    const Value u = (other - power) * per;
    // A NaN in the first argument of max is returned; the logarithm would hide it.
    return Math::max(log_p, logits) - Math::max(logits, Math::zero()) +
           logarithm<Math, Result>(u, (Math::one() + other) * per).log;
  }

  // d
  IWAE_EVERYWHERE Value dropped() const { return part(logits, power); }

  // The probability that a zero was counted.
  IWAE_EVERYWHERE Value was_counted(Value log_p) const {
    return part(log_p - logits, Math::exp(Math::minus_abs(logits - log_p)));
  }

 private:
  // The sigmoid of x, from exp(-|x|).
  IWAE_EVERYWHERE static Value part(Value x, Value power) {
    return Math::divide(Math::one_where_positive(x, power), Math::one() + power);
  }
};

// What is computed in float64 for each element: Math::in_double calls `run` for the float64 arithmetic of a device.
struct NegativeBinomialLogProb {
  template <class Math, class Result>
  IWAE_EVERYWHERE static void run(const typename Math::Value (&p)[3], typename Math::Value (&made)[1]) {
    made[0] = NegativeBinomial<Math, Result>(p[0], p[1], p[2]).log_prob();
  }
};

struct NegativeBinomialSlopes {
  template <class Math, class Result>
  IWAE_EVERYWHERE static void run(const typename Math::Value (&p)[3], typename Math::Value (&made)[2]) {
    const NegativeBinomial<Math, Result> density(p[0], p[1], p[2]);
    made[0] = density.excess;
    made[1] = density.theta_slope();
  }
};

struct NegativeBinomialCountSlope {
  template <class Math, class Result>
  IWAE_EVERYWHERE static void run(const typename Math::Value (&p)[3], typename Math::Value (&made)[1]) {
    made[0] = NegativeBinomial<Math, Result>(p[0], p[1], p[2]).count_slope();
  }
};

struct ZeroInflatedLogProb {
  template <class Math, class Result>
  IWAE_EVERYWHERE static void run(const typename Math::Value (&p)[4], typename Math::Value (&made)[1]) {
    const NegativeBinomial<Math, Result> density(p[0], p[1], p[2]);
    const ZeroInflation<Math, Result> inflation(p[3]);
    const auto counted = density.counted(Math::divide(Math::one(), Math::one() + inflation.power)) - inflation.positive;
    made[0] = p[0] == Math::zero() ? inflation.zero(density.zero()) : counted;
  }
};

struct ZeroInflatedSlopes {
  template <class Math, class Result>
  IWAE_EVERYWHERE static void run(const typename Math::Value (&p)[4], typename Math::Value (&made)[3]) {
    const NegativeBinomial<Math, Result> density(p[0], p[1], p[2]);
    const ZeroInflation<Math, Result> inflation(p[3]);
    const auto zero = p[0] == Math::zero();
    const typename Math::Value counted = zero ? inflation.was_counted(density.zero()) : Math::one();
    made[0] = counted * density.excess;
    made[1] = counted * density.theta_slope();
    made[2] = (Math::one() - counted) - inflation.dropped();
  }
};

struct ZeroInflatedCountSlope {
  template <class Math, class Result>
  IWAE_EVERYWHERE static void run(const typename Math::Value (&p)[4], typename Math::Value (&made)[1]) {
    const NegativeBinomial<Math, Result> density(p[0], p[1], p[2]);
    const ZeroInflation<Math, Result> inflation(p[3]);
    const auto zero = p[0] == Math::zero();
    made[0] = (zero ? inflation.was_counted(density.zero()) : Math::one()) * density.count_slope();
  }
};

// The logarithm of the mean of a neutral element: a count of 0 then has probability 1, in every dtype.
constexpr double kNeutralLogMean = -32768.0;

template <class Math>
struct NegativeBinomialDensity : DensityDefaults<Math> {
  using Scalar = typename Math::Scalar;
  using Value = typename Math::Value;
  static constexpr int kParameters = 3;
  static constexpr bool kLong = true;
  enum { kValue, kLogMean, kLogTheta };

  IWAE_EVERYWHERE static Scalar neutral(int parameter) { return Scalar(parameter == kLogMean ? kNeutralLogMean : 0.0); }

  IWAE_EVERYWHERE static void add(const Value (&p)[kParameters], Value& sum, Value&) {
    Value made[1];
    Math::template in_double<NegativeBinomialLogProb>(p, made);
    sum += made[0];
  }

  IWAE_EVERYWHERE static void gradients(const Value (&p)[kParameters], Value (&slope)[kParameters]) {
    Value slopes[2], count[1];
    Math::template in_double<NegativeBinomialSlopes>(p, slopes);
    Math::template in_double<NegativeBinomialCountSlope>(p, count);
    slope[kValue] = count[0];
    slope[kLogMean] = slopes[0];
    slope[kLogTheta] = slopes[1];
  }
};

template <class Math>
struct ZeroInflatedNegativeBinomialDensity : DensityDefaults<Math> {
  using Scalar = typename Math::Scalar;
  using Value = typename Math::Value;
  static constexpr int kParameters = 4;
  static constexpr bool kLong = true;
  enum { kValue, kLogMean, kLogTheta, kDropoutLogits };

  IWAE_EVERYWHERE static Scalar neutral(int parameter) { return Scalar(parameter == kLogMean ? kNeutralLogMean : 0.0); }

  IWAE_EVERYWHERE static void add(const Value (&p)[kParameters], Value& sum, Value&) {
    Value made[1];
    Math::template in_double<ZeroInflatedLogProb>(p, made);
    sum += made[0];
  }

  IWAE_EVERYWHERE static void gradients(const Value (&p)[kParameters], Value (&slope)[kParameters]) {
    Value slopes[3], count[1];
    Math::template in_double<ZeroInflatedSlopes>(p, slopes);
    Math::template in_double<ZeroInflatedCountSlope>(p, count);
    slope[kValue] = count[0];
    slope[kLogMean] = slopes[0];
    slope[kLogTheta] = slopes[1];
    slope[kDropoutLogits] = slopes[2];
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
