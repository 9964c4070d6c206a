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

/* out = c1 scale A y + c2 y + c3 old on WIDTH vectors of columns that begin at column `at`. */
#define ROWS(T, V, NAME, WIDTH)                                                                        \
    static void NAME##_##WIDTH(int64_t n, int64_t m, int64_t at, const int32_t *indptr,                \
                               const int32_t *indices, const T *data, const T *scale, T c1, T c2,      \
                               T c3, const T *y, const T *old, T *out)                                 \
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
    typedef T pack_##SUFFIX __attribute__((vector_size(32), aligned(sizeof(T)), may_alias));           \
    typedef T one_##SUFFIX __attribute__((vector_size(sizeof(T)), aligned(sizeof(T)), may_alias));     \
    ROWS(T, pack_##SUFFIX, pack_step_##SUFFIX, 4)                                                      \
    ROWS(T, pack_##SUFFIX, pack_step_##SUFFIX, 3)                                                      \
    ROWS(T, pack_##SUFFIX, pack_step_##SUFFIX, 2)                                                      \
    ROWS(T, pack_##SUFFIX, pack_step_##SUFFIX, 1)                                                      \
    ROWS(T, one_##SUFFIX, one_step_##SUFFIX, 1)                                                        \
    static void step_##SUFFIX(int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices,     \
                              const T *data, const T *scale, T c1, T c2, T c3, const T *y,             \
                              const T *old, T *out)                                                    \
    {                                                                                                  \
        const int64_t lanes = 32 / sizeof(T);                                                          \
        for (int64_t at = 0; at < m;) {                                                                \
            const int64_t packs = (m - at) / lanes;                                                    \
            if (packs >= 6 || packs == 4) {                                                            \
                pack_step_##SUFFIX##_4(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, out); \
                at += 4 * lanes;                                                                       \
            } else if (packs >= 3) {                                                                   \
                pack_step_##SUFFIX##_3(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, out); \
                at += 3 * lanes;                                                                       \
            } else if (packs == 2) {                                                                   \
                pack_step_##SUFFIX##_2(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, out); \
                at += 2 * lanes;                                                                       \
            } else if (packs == 1) {                                                                   \
                pack_step_##SUFFIX##_1(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, out); \
                at += lanes;                                                                           \
            } else {                                                                                   \
                one_step_##SUFFIX##_1(n, m, at, indptr, indices, data, scale, c1, c2, c3, y, old, out); \
                at += 1;                                                                               \
            }                                                                                          \
        }                                                                                              \
    }                                                                                                  \
    /* out = A y, A of n rows. */                                                                                   \
    void multiply_##SUFFIX(int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices,        \
                           const T *data, const T *y, T *out)                                          \
    {                                                                                                  \
        step_##SUFFIX(n, m, indptr, indices, data, NULL, 1, 0, 0, y, y, out);                          \
    }                                                                                                  \
    /* p(diag(scale) A) y with y in `a`, p damping [lower, upper], degree >= 1. Both blocks are        \
     * overwritten; returns 0 if the result is in `a`, 1 if it is in `b`. */                           \
    int chebyshev_##SUFFIX(int64_t n, int64_t m, const int32_t *indptr, const int32_t *indices,        \
                           const T *data, const T *scale, int degree, double lower, double upper,      \
                           T *a, T *b)                                                                 \
    {                                                                                                  \
        const double centre = 0.5 * (upper + lower), half = 0.5 * (upper - lower);                     \
        const double first = -half / centre;                                                           \
        double sigma = first;                                                                          \
        T *before = a, *now = b;                                                                       \
        step_##SUFFIX(n, m, indptr, indices, data, scale, (T)(sigma / half),                           \
                      (T)(-centre * sigma / half), 0, before, before, now);                            \
        for (int k = 1; k < degree; ++k) {                                                             \
            const double next = 1.0 / (2.0 / first - sigma);                                           \
            /* Row i of the block before last is used for row i only: it can be overwritten. */        \
            step_##SUFFIX(n, m, indptr, indices, data, scale, (T)(2.0 * next / half),                  \
                          (T)(-2.0 * centre * next / half), (T)(-sigma * next), now, before, before);  \
            T *swap = before;                                                                          \
            before = now;                                                                              \
            now = swap;                                                                                \
            sigma = next;                                                                              \
        }                                                                                              \
        return now == a ? 0 : 1;                                                                       \
    }

SWEEPS(float, f)
SWEEPS(double, d)
