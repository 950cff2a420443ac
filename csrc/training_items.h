// The plan of a training step that runs in one launch: phases, each a list of tasks whose items the blocks divide.
//
// iwae_fast/fused/items.py has the same structures, whose fields are compared with these by name.
#pragma once

#include "operand.h"

namespace iwae {

// What the items of a task compute.
#define IWAE_TRAINING_KINDS(KIND)                                                                      \
  KIND(Pixels)        /* a part of the next step's batch: pixels drawn from gray levels, or copied */   \
  KIND(Coefficients)  /* Adam's coefficients of the step, and its count of steps */                     \
  KIND(Forward)       /* a tile of A B^T, of activations A (rows, inner) and weights B (columns, inner) */ \
  KIND(Backward)      /* a tile of A B, of gradients A (rows, inner) and weights B (inner, columns) */  \
  KIND(Gradient)      /* a tile of A^T diag(row_scale) B, of gradients A (inner, rows) and activations B */ \
  KIND(Sample)        /* some rows of z, with log p(z) - log q(z | x) */                                \
  KIND(Weights)       /* the log-weights of an observation, its bound and its gradients' scales */      \
  KIND(Posterior)     /* gradients of some columns of an observation's mean and log_std */              \
  KIND(Update)        /* Adam for some elements of a layer, from the parts of its gradient */

// The shape of a product's tiles.
#define IWAE_TRAINING_SHAPES(SHAPE)                                       \
  SHAPE(Wide)  /* 64 x 64 */                                              \
  SHAPE(Flat)  /* 32 x 64 */                                              \
  SHAPE(Thin)  /* 32 x 8, whose inner sizes are divided among the warps */

// What happens to the elements of a product.
#define IWAE_TRAINING_FINISHES(FINISH)                                                          \
  FINISH(Plain)      /* stored */                                                               \
  FINISH(Linear)     /* bias added */                                                           \
  FINISH(Tanh)       /* bias added, then tanh */                                                \
  FINISH(Slope)      /* times 1 - other^2, the derivative of a tanh whose result is `other` */  \
  FINISH(Bernoulli)  /* bias added; log-probabilities of `other`, and their derivative */       \
  FINISH(Part)       /* a part of a gradient, stored */                                         \
  FINISH(Adam)       /* a whole gradient, with which the layer is updated */

#define IWAE_TRAINING_NAME(name) k##name,
enum class TaskKind : int64_t { IWAE_TRAINING_KINDS(IWAE_TRAINING_NAME) };
enum class TileShape : int64_t { IWAE_TRAINING_SHAPES(IWAE_TRAINING_NAME) };
enum class Finish : int64_t { IWAE_TRAINING_FINISHES(IWAE_TRAINING_NAME) };
#undef IWAE_TRAINING_NAME

// The fields of a task: 64-bit words, of which pointers are addresses of float32. Strides are in elements.
#define IWAE_TRAINING_FIELDS(FIELD)                                                        \
  FIELD(kind)                                                                              \
  FIELD(items)                                                                             \
  FIELD(shape)                                                                             \
  FIELD(finish)                                                                            \
  FIELD(rows)             /* sizes of the result */                                        \
  FIELD(columns)                                                                           \
  FIELD(inner)            /* the size that a product sums over */                          \
  FIELD(column_tiles)                                                                      \
  FIELD(inner_part)       /* of which an item sums this much */                            \
  FIELD(a)                /* first operand */                                              \
  FIELD(a_stride)                                                                          \
  FIELD(a_wide)           /* 1 if all its rows are aligned to 16 bytes */                  \
  FIELD(a_parity)         /* added to the address in odd steps, in elements */             \
  FIELD(b)                /* second operand */                                             \
  FIELD(b_stride)                                                                          \
  FIELD(b_wide)                                                                            \
  FIELD(b_parity)                                                                          \
  FIELD(b_rest)           /* a matrix that has the rows of b from b_first on */            \
  FIELD(b_first)                                                                           \
  FIELD(bias)                                                                              \
  FIELD(row_scale)        /* a factor of each of the inner rows */                         \
  FIELD(other)                                                                             \
  FIELD(other_stride)                                                                      \
  FIELD(other_rows)       /* row r belongs to row r % other_rows of `other` */             \
  FIELD(other_parity)                                                                      \
  FIELD(out)                                                                               \
  FIELD(out_stride)                                                                        \
  FIELD(out_part)         /* elements between the parts of a gradient */                   \
  FIELD(parts)            /* number of these parts */                                      \
  FIELD(sums)             /* sums of rows: log-probabilities in parts, or log-ratios */    \
  FIELD(sums_stride)                                                                       \
  FIELD(encoder_scale)                                                                     \
  FIELD(decoder_scale)                                                                     \
  FIELD(layer)            /* index of the layer's weight among the tensors; then its bias */

struct TrainingTask {
#define IWAE_TRAINING_FIELD(name) int64_t name;
  IWAE_TRAINING_FIELDS(IWAE_TRAINING_FIELD)
#undef IWAE_TRAINING_FIELD
};

// A parameter with its state, as addresses.
struct TrainingTensor {
  int64_t parameter, first, second, step;
};

// The plan as one array of 64-bit words in device memory: the number of tasks up to the end of each phase, the tensors,
// and the tasks. Blocks copy it to their shared memory.
struct TrainingProgram {
  const int64_t* words = nullptr;
  int32_t phases = 0, tensors = 0, tasks = 0;

  IWAE_SHARED int64_t size() const {
    return phases + tensors * int64_t{sizeof(TrainingTensor) / 8} + tasks * int64_t{sizeof(TrainingTask) / 8};
  }
};

// The numbers of the objective.
struct TrainingObjective {
  float power = 1.0f;      // the bound is log[mean of w^power] / power, and the mean of log w if this is 0
  float linear = 1.0f, quadratic = 0.0f;  // the encoder's scale of a weight v is linear v + quadratic v^2
  float kl_weight = 1.0f;  // factor of the log-ratio
  float factor = 1.0f;     // derivative of the loss by minus the bound of an observation
  bool path_only = false;  // log q is differentiated through z alone
};

// What a run reads besides its plan, in device memory.
struct TrainingInputs {
  const void* data = nullptr;      // (observations, features), float32 or bytes
  bool bytes = false;
  float divisor = 1.0f;            // of bytes
  int64_t observations = 0;
  const int64_t* chosen = nullptr;  // (steps, batch): the observations of each step
  const float* rates = nullptr;     // (steps)
  const uint64_t* seed = nullptr;   // of the first step's noise
  uint64_t pixel_seed = 0;
  bool draws_pixels = false;        // the data are gray levels
  uint32_t first_step = 0;          // number of the first step, for its pixels
};

}  // namespace iwae
