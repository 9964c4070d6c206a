/* Copyright (C) 2026 The dolfinx_msnn developers
 * SPDX-License-Identifier: MIT
 *
 * Products of a sparse matrix (CSR) with a block of vectors, and the Chebyshev recurrence on them. A block is
 * row-major, n x m. Vector types keep a few columns in registers; the last columns go one by one.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* Diagonal of A, largest sum of |a_ij| / a_ii over a row, and largest ratio of diagonal entries that share an
 * entry of A. */
void measure(int64_t n, const int32_t *indptr, const int32_t *indices, const double *data, double *diagonal,
             double *row_sum, double *jump)
{
    *row_sum = 0;
    *jump = 1;
    for (int64_t i = 0; i < n; ++i) {
        double sum = 0;
        for (int32_t k = indptr[i]; k < indptr[i + 1]; ++k) {
            sum += fabs(data[k]);
            if (indices[k] == i)
                diagonal[i] = data[k];
        }
        if (sum > *row_sum * diagonal[i])
            *row_sum = sum / diagonal[i];
    }
    for (int64_t i = 0; i < n; ++i) {
        double least = diagonal[i];
        for (int32_t k = indptr[i]; k < indptr[i + 1]; ++k) {
            const double other = diagonal[indices[k]];
            least = other < least ? other : least;
        }
        if (diagonal[i] > *jump * least)
            *jump = diagonal[i] / least;
    }
}

/* Bytes of a vector, and whether there are wider ones. Vectors wider than the processor's registers are kept in
 * memory by compilers, which takes up to twenty times as long. */
#ifdef __AVX__
#define PACK 32
#else
#define PACK 16
#endif
#ifdef __AVX512F__
#define WIDE 1
#else
#define WIDE 0
#endif

/* out = c1 scale (A y - rhs) + c2 y + c3 old on WIDTH vectors of columns that begin at column `at`; rhs may be NULL. */
#define ROWS(T, V, NAME, WIDTH)                                                                        \
    static void NAME##_##WIDTH(int64_t n, int64_t m, int64_t at, const int32_t *indptr,                \
                               const int32_t *indices, const T *data, const T *scale, T c1, T c2,      \
                               T c3, const T *y, const T *old, const T *rhs, T *out)                   \
    {                                                                                                  \
        for (int64_t i = 0; i < n; ++i) {                                                              \
            V sum[WIDTH];                                                                              \
            for (int j = 0; j < WIDTH; ++j)                                                            \
                sum[j] = (V){0};                                                                       \
            for (int32_t k = indptr[i]; k < indptr[i + 1]; ++k) {                                      \
                const V *x = (const V *)(y + (int64_t)indices[k] * m + at);                            \
                for (int j = 0; j < WIDTH; ++j)                                                        \
                    sum[j] += data[k] * x[j];                                                          \
            }                                                                                          \
            if (rhs)                                                                                   \
                for (int j = 0; j < WIDTH; ++j)                                                        \
                    sum[j] -= ((const V *)(rhs + i * m + at))[j];                                      \
            const T c = scale ? c1 * scale[i] : c1;                                                    \
            const V *x = (const V *)(y + i * m + at), *z = (const V *)(old + i * m + at);              \
            V *to = (V *)(out + i * m + at);                                                           \
            /* Not 0 * x: a rectangular A has another number of rows than y, and z may be NaN. */      \
            for (int j = 0; j < WIDTH; ++j)                                                            \
                to[j] = c2 == 0   ? c * sum[j]                                                         \
                        : c3 == 0 ? c * sum[j] + c2 * x[j]                                             \
                                  : c * sum[j] + c2 * x[j] + c3 * z[j];                                \
        }                                                                                              \
    }

#define SWEEPS(T, SUFFIX)                                                                              \
    typedef T pack_##SUFFIX __attribute__((vector_size(PACK), aligned(sizeof(T)), may_alias));         \
    typedef T wide_##SUFFIX __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));           \
    typedef T one_##SUFFIX __attribute__((vector_size(sizeof(T)), aligned(sizeof(T)), may_alias));     \
    ROWS(T, wide_##SUFFIX, wide_step_##SUFFIX, 2)                                                      \
    ROWS(T, pack_##SUFFIX, pack_step_##SUFFIX, 4)                                                      \
    ROWS(T, pack_##SUFFIX, pack_step_##SUFFIX, 3)                                                      \
    ROWS(T, pack_##SUFFIX, pack_step_##SUFFIX, 2)                                                      \
    ROWS(T, pack_##SUFFIX, pack_step_##SUFFIX, 1)                                                      \
    ROWS(T, one_##SUFFIX, one_step_##SUFFIX, 1)                                                        \
    static void step_##SUFFIX(int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices,     \
                              const T *data, const T *scale, T c1, T c2, T c3, const T *y,             \
                              const T *old, const T *rhs, T *out)                                      \
    {                                                                                                  \
        const int64_t lanes = PACK / sizeof(T);                                                        \
        for (int64_t at = 0; at < m;) {                                                                \
            const int64_t packs = (m - at) / lanes;                                                    \
            if (WIDE && (packs >= 6 || packs == 4)) {                                                  \
                wide_step_##SUFFIX##_2(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, rhs, out); \
                at += 4 * lanes;                                                                       \
            } else if (packs == 4) {                                                                   \
                pack_step_##SUFFIX##_4(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, rhs, out); \
                at += 4 * lanes;                                                                       \
            } else if (packs >= 3) {                                                                   \
                pack_step_##SUFFIX##_3(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, rhs, out); \
                at += 3 * lanes;                                                                       \
            } else if (packs == 2) {                                                                   \
                pack_step_##SUFFIX##_2(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, rhs, out); \
                at += 2 * lanes;                                                                       \
            } else if (packs == 1) {                                                                   \
                pack_step_##SUFFIX##_1(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, rhs, out); \
                at += lanes;                                                                           \
            } else {                                                                                   \
                one_step_##SUFFIX##_1(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, rhs, out); \
                at += 1;                                                                               \
            }                                                                                          \
        }                                                                                              \
    }                                                                                                  \
    /* out = A y, A of n rows. */                                                                      \
    void multiply_##SUFFIX(int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices,        \
                           const T *data, const T *y, T *out)                                          \
    {                                                                                                  \
        step_##SUFFIX(n, m, indptr, indices, data, NULL, 1, 0, 0, y, y, NULL, out);                    \
    }                                                                                                  \
    /* p(diag(scale) A) y with y in `a`, p damping [lower, upper], degree >= 1; with a right-hand side, \
     * not NULL, the errors of y as a solution of A y = rhs are multiplied by p(diag(scale) A) instead. \
     * Both blocks are overwritten; returns 0 if the result is in `a`, 1 if it is in `b`. */           \
    int chebyshev_##SUFFIX(int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices,        \
                           const T *data, const T *scale, int degree, double lower, double upper,      \
                           const T *rhs, T *a, T *b)                                                   \
    {                                                                                                  \
        const double centre = 0.5 * (upper + lower), half = 0.5 * (upper - lower);                     \
        const double first = -half / centre;                                                           \
        double sigma = first;                                                                          \
        T *before = a, *now = b;                                                                       \
        step_##SUFFIX(n, m, indptr, indices, data, scale, (T)(sigma / half),                           \
                      (T)(-centre * sigma / half), 0, before, before, rhs, now);                       \
        for (int k = 1; k < degree; ++k) {                                                             \
            const double next = 1.0 / (2.0 / first - sigma);                                           \
            /* Row i of the block before last is used for row i only: it can be overwritten. */        \
            step_##SUFFIX(n, m, indptr, indices, data, scale, (T)(2.0 * next / half),                  \
                          (T)(-2.0 * centre * next / half), (T)(-sigma * next), now, before, rhs, before); \
            T *swap = before;                                                                          \
            before = now;                                                                              \
            now = swap;                                                                                \
            sigma = next;                                                                              \
        }                                                                                              \
        return now == a ? 0 : 1;                                                                       \
    }

SWEEPS(float, f)
SWEEPS(double, d)

/* Rayleigh-Ritz. A and S share a pattern; sums are taken in double precision whatever the block is. A tile of ROWS
 * rows of A y and S y stays in the cache until its share of the Gram matrices is added: neither product is stored. */
#define TILE 16

/* Doubles in a vector. */
#define LANES (PACK / 8)

typedef double vector __attribute__((vector_size(PACK), aligned(8), may_alias));
typedef float vector_f __attribute__((vector_size(PACK / 2), aligned(4), may_alias));
typedef double vector_d __attribute__((vector_size(PACK), aligned(8), may_alias));

/* gram += yᵀ z for a tile of rows, both of `width` columns, a multiple of 8; the blocks on and above the diagonal. */
static void add_gram(int64_t rows, int64_t width, const double *y, const double *z, double *gram)
{
    for (int64_t p = 0; p < width; p += 4)
        for (int64_t q = p / (2 * LANES) * (2 * LANES); q < width; q += 2 * LANES) {
            vector sum[4][2];
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 2; ++j)
                    sum[i][j] = *(const vector *)(gram + (p + i) * width + q + LANES * j);
            for (int64_t r = 0; r < rows; ++r) {
                const vector left = *(const vector *)(z + r * width + q), right = *(const vector *)(z + r * width + q + LANES);
                for (int i = 0; i < 4; ++i) {
                    sum[i][0] += y[r * width + p + i] * left;
                    sum[i][1] += y[r * width + p + i] * right;
                }
            }
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 2; ++j)
                    *(vector *)(gram + (p + i) * width + q + LANES * j) = sum[i][j];
        }
}

#define RITZ(T, SUFFIX)                                                                                \
    /* Rows of A y and S y in `count` vectors of columns from column `at`. */                          \
    static inline __attribute__((always_inline)) void both_##SUFFIX(int64_t i, int64_t m, int64_t at, int count, \
                                     const int32_t *indptr, const int32_t *indices, const double *A,   \
                                     const double *S, const T *y, vector *to_a, vector *to_s)          \
    {                                                                                                  \
        vector a[6], s[6];                                                                             \
        for (int j = 0; j < count; ++j)                                                                \
            a[j] = s[j] = (vector){0};                                                                 \
        for (int32_t k = indptr[i]; k < indptr[i + 1]; ++k) {                                          \
            const vector_##SUFFIX *x = (const vector_##SUFFIX *)(y + (int64_t)indices[k] * m + at);    \
            for (int j = 0; j < count; ++j) {                                                          \
                const vector value = __builtin_convertvector(x[j], vector);                            \
                a[j] += A[k] * value;                                                                  \
                s[j] += S[k] * value;                                                                  \
            }                                                                                          \
        }                                                                                              \
        for (int j = 0; j < count; ++j) {                                                              \
            to_a[j] = a[j];                                                                            \
            to_s[j] = s[j];                                                                            \
        }                                                                                              \
    }                                                                                                  \
    /* a = yᵀA y and s = yᵀS y, y of m columns (a multiple of 8); `work` holds 3 x TILE x m doubles. */ \
    void project_##SUFFIX(int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices,         \
                          const double *A, const double *S, const T *y, double *a, double *s,          \
                          double *work)                                                                \
    {                                                                                                  \
        double *z = work, *Az = work + TILE * m, *Sz = work + 2 * TILE * m;                            \
        for (int64_t k = 0; k < m * m; ++k)                                                            \
            a[k] = s[k] = 0;                                                                           \
        for (int64_t first = 0; first < n; first += TILE) {                                            \
            const int64_t rows = n - first < TILE ? n - first : TILE;                                  \
            for (int64_t k = 0; k < rows * m; ++k)                                                     \
                z[k] = y[first * m + k];                                                               \
            for (int64_t at = 0; at < m;) {                                                            \
                const int64_t vectors = (m - at) / LANES;                                              \
                const int count = vectors >= 6 && vectors != 8 ? 6 : vectors >= 4 ? 4 : 2;             \
                for (int64_t r = 0; r < rows; ++r) {                                                   \
                    vector *to_a = (vector *)(Az + r * m + at), *to_s = (vector *)(Sz + r * m + at);   \
                    if (count == 6)                                                                    \
                        both_##SUFFIX(first + r, m, at, 6, indptr, indices, A, S, y, to_a, to_s);      \
                    else if (count == 4)                                                               \
                        both_##SUFFIX(first + r, m, at, 4, indptr, indices, A, S, y, to_a, to_s);      \
                    else                                                                               \
                        both_##SUFFIX(first + r, m, at, 2, indptr, indices, A, S, y, to_a, to_s);      \
                }                                                                                      \
                at += LANES * count;                                                                   \
            }                                                                                          \
            add_gram(rows, m, z, Az, a);                                                               \
            add_gram(rows, m, z, Sz, s);                                                               \
        }                                                                                              \
        for (int64_t p = 0; p < m; ++p)                                                                \
            for (int64_t q = 0; q < p; ++q) {                                                          \
                a[p * m + q] = a[q * m + p];                                                           \
                s[p * m + q] = s[q * m + p];                                                           \
            }                                                                                          \
    }                                                                                                  \
    /* out = y c, y of m columns, out of `width` columns, a multiple of 8. */                          \
    void combine_##SUFFIX(int64_t n, int64_t m, int64_t width, const T *y, const double *c,            \
                          double *out)                                                                 \
    {                                                                                                  \
        for (int64_t i = 0; i < n; ++i)                                                                \
            for (int64_t at = 0; at < width; at += 2 * LANES) {                                        \
                vector left = {0}, right = {0};                                                        \
                for (int64_t k = 0; k < m; ++k) {                                                      \
                    const double value = y[i * m + k];                                                 \
                    left += value * *(const vector *)(c + k * width + at);                             \
                    right += value * *(const vector *)(c + k * width + at + LANES);                    \
                }                                                                                      \
                *(vector *)(out + i * width + at) = left;                                              \
                *(vector *)(out + i * width + at + LANES) = right;                                     \
            }                                                                                          \
    }

RITZ(float, f)
RITZ(double, d)

/* errors_j = Σ_i (A y_j - values_j S y_j)_i² / diagonal_i, y of m columns, a multiple of 8. */
void residuals(int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices, const double *A,
               const double *S, const double *y, const double *values, const double *diagonal, double *errors)
{
    for (int64_t at = 0; at < m; at += 2 * LANES) {
        const vector *value = (const vector *)(values + at);
        vector sum[2] = {{0}, {0}};
        for (int64_t i = 0; i < n; ++i) {
            vector a[2], s[2];
            both_d(i, m, at, 2, indptr, indices, A, S, y, a, s);
            for (int j = 0; j < 2; ++j) {
                const vector rest = a[j] - value[j] * s[j];
                sum[j] += rest * rest / diagonal[i];
            }
        }
        for (int j = 0; j < 2; ++j)
            *(vector *)(errors + at + LANES * j) = sum[j];
    }
}

/* For functions z of m columns (a multiple of 4): energies zᵀA z, sizes zᵀD z with D = diag(A), and zᵀdiag(S) z. */
void energies(int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices, const double *A, const double *S,
              const double *z, double *energy, double *size, double *mass)
{
    for (int64_t at = 0; at < m; at += LANES) {
        vector sums[3] = {{0}, {0}, {0}};
        for (int64_t i = 0; i < n; ++i) {
            const vector x = *(const vector *)(z + i * m + at);
            vector product = {0};
            double d = 0, w = 0;
            for (int32_t k = indptr[i]; k < indptr[i + 1]; ++k) {
                product += A[k] * *(const vector *)(z + (int64_t)indices[k] * m + at);
                if (indices[k] == i) {
                    d = A[k];
                    w = S[k];
                }
            }
            sums[0] += product * x;
            sums[1] += d * (x * x);
            sums[2] += w * (x * x);
        }
        *(vector *)(energy + at) = sums[0];
        *(vector *)(size + at) = sums[1];
        *(vector *)(mass + at) = sums[2];
    }
}
