"""Every loss once more, as its paper writes it: explicit loops over lists of Python numbers.

Nothing here is shared with the package, and nothing is made stable: inputs are small and tame.
"""

from math import atanh, exp, log, sqrt


def dot(x, y):
    return sum(p * q for p, q in zip(x, y, strict=True))


def distance(x, y):
    return sqrt(sum((p - q) ** 2 for p, q in zip(x, y, strict=True)))


def cosine(x, y):
    return dot(x, y) / sqrt(dot(x, x)) / sqrt(dot(y, y))


def average(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers) if numbers else 0.0


def choice(scores, i):
    """-log of the share of exp(scores[i]) among all; sharp temperatures need the largest taken off."""
    top = max(scores)
    return top + log(sum(exp(s - top) for s in scores)) - scores[i]


def softmax(scores):
    return [exp(-choice(scores, k)) for k in range(len(scores))]


def pairwise_contrastive(a, b, same, margin=1.0):
    return average(
        distance(x, y) ** 2 if s else max(0.0, margin - distance(x, y)) ** 2
        for x, y, s in zip(a, b, same, strict=True)
    )


def triplet(anchor, positive, negative, margin=0.2, squared=False):
    power = 2 if squared else 1
    return average(
        max(0.0, distance(a, p) ** power - distance(a, n) ** power + margin)
        for a, p, n in zip(anchor, positive, negative, strict=True)
    )


def mined_triplet(z, labels, mining="semi_hard", margin=0.2, squared=False):
    losses = []
    for i, anchor in enumerate(z):
        positives = [x for k, x in enumerate(z) if k != i and labels[k] == labels[i]]
        negatives = [x for k, x in enumerate(z) if labels[k] != labels[i]]
        if not positives or not negatives:
            continue

        def near(x, anchor=anchor):
            return distance(anchor, x)

        if mining == "hard":
            mined = [(max(positives, key=near), min(negatives, key=near))]
        elif mining == "all":
            mined = [(p, n) for p in positives for n in negatives]
        else:
            mined = []
            for p in positives:
                farther = [n for n in negatives if near(n) > near(p)]
                n = min(farther, key=near) if farther else max(negatives, key=near)
                mined.append((p, n))
        losses += [triplet([anchor], [p], [n], margin, squared) for p, n in mined]
    return average(x for x in losses if x > 0) if mining == "all" else average(losses)


def n_pair(anchor, positive):
    return average(choice([dot(a, p) for p in positive], i) for i, a in enumerate(anchor))


def info_nce(query, positive, negatives=None, temperature=0.07):
    losses = []
    for i, q in enumerate(query):
        others = negatives if negatives is not None else positive[:i] + positive[i + 1 :]
        scores = [cosine(q, x) / temperature for x in [positive[i], *others]]
        losses.append(choice(scores, 0))
    return average(losses)


def views(a, b, logit):
    """For each of the 2N anchors: the logit with its partner and those with all negatives."""
    everyone, n = [*a, *b], len(a)
    for i, anchor in enumerate(everyone):
        p = (i + n) % (2 * n)
        negatives = [logit(anchor, x) for k, x in enumerate(everyone) if k not in (i, p)]
        yield logit(anchor, everyone[p]), negatives


def nt_xent(a, b, temperature=0.5):
    def logit(x, y):
        return cosine(x, y) / temperature

    return average(choice([own, *negatives], 0) for own, negatives in views(a, b, logit))


def hard_negative_nt_xent(a, b, temperature=0.5, tau_plus=0.1, beta=1.0):
    def logit(x, y):
        return cosine(x, y) / temperature

    losses = []
    for own, logits in views(a, b, logit):
        pos, neg, n = exp(own), [exp(s) for s in logits], 2 * len(a) - 2
        w = [x**beta for x in neg]
        total = sum(x * y for x, y in zip(w, neg, strict=True)) / average(w) if n else 0.0
        rest = max((-tau_plus * n * pos + total) / (1 - tau_plus), n * exp(-1 / temperature))
        losses.append(-log(pos / (pos + rest)))
    return average(losses)


def debiased_nt_xent(a, b, temperature=0.5, tau_plus=0.1):
    def logit(x, y):
        return cosine(x, y) / temperature

    losses = []
    for own, logits in views(a, b, logit):
        pos, total, n = exp(own), sum(exp(s) for s in logits), 2 * len(a) - 2
        rest = max((-tau_plus * n * pos + total) / (1 - tau_plus), n * exp(-1 / temperature))
        losses.append(-log(pos / (pos + rest)))
    return average(losses)


def temperature_free_info_nce(a, b):
    return average(choice([2 * atanh(cosine(x, y)) for y in b], i) for i, x in enumerate(a))


def temperature_free_nt_xent(a, b):
    def logit(x, y):
        c = cosine(x, y)
        return log((1 + c) / (1 - c))

    return average(choice([own, *negatives], 0) for own, negatives in views(a, b, logit))


def sup_con(z, labels, temperature=0.1, form="out"):
    losses = []
    for i, anchor in enumerate(z):
        positives = [k for k in range(len(z)) if k != i and labels[k] == labels[i]]
        if not positives:
            continue
        others = [k for k in range(len(z)) if k != i]
        scores = [cosine(anchor, z[k]) / temperature for k in others]
        nll = [choice(scores, others.index(p)) for p in positives]
        losses.append(average(nll) if form == "out" else -log(average(exp(-x) for x in nll)))
    return average(losses)


def moco_v3(query, key, temperature=1.0):
    return average(
        2 * temperature * choice([cosine(q, k) / temperature for k in key], i)
        for i, q in enumerate(query)
    )


def nn_info_nce(projection, prediction, support, temperature=0.1):
    neighbours = [min(support, key=lambda s: -cosine(z, s)) for z in projection]
    return average(
        choice([cosine(n, p) / temperature for p in prediction], i)
        for i, n in enumerate(neighbours)
    )


def byol(prediction, target):
    return average(2 - 2 * cosine(p, t) for p, t in zip(prediction, target, strict=True))


def negative_cosine(prediction, target):
    return average(-cosine(p, t) for p, t in zip(prediction, target, strict=True))


def columns(x):
    return [list(column) for column in zip(*x, strict=True)]


def centred(column):
    middle = average(column)
    return [v - middle for v in column]


def barlow_twins(a, b, redundancy=0.0051):
    def standardised(column):
        column = centred(column)
        size = sqrt(average(v * v for v in column) + 1e-5)
        return [v / size for v in column]

    left, right = ([standardised(c) for c in columns(x)] for x in (a, b))
    total = 0.0
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            c = dot(x, y) / len(a)
            total += (c - 1) ** 2 if i == j else redundancy * c**2
    return total


def vicreg(a, b, invariance=25.0, variance=25.0, covariance=1.0):
    n, width = len(a), len(a[0])
    total = invariance * sum(distance(x, y) ** 2 for x, y in zip(a, b, strict=True)) / (n * width)
    for x in (a, b):
        parts = [centred(c) for c in columns(x)]
        for i, p in enumerate(parts):
            hinge = max(0.0, 1 - sqrt(dot(p, p) / (n - 1) + 1e-4))
            total += variance * hinge / width / 2
            for j, q in enumerate(parts):
                total += covariance * (dot(p, q) / (n - 1)) ** 2 / width if i != j else 0.0
    return total


def sinkhorn(scores, epsilon=0.05, iterations=3):
    """As the official code does it: no logarithms, prototypes first."""
    q, b, k = [[exp(s / epsilon) for s in row] for row in scores], len(scores), len(scores[0])
    for _ in range(iterations):
        totals = [sum(column) for column in columns(q)]
        q = [[x / t / k for x, t in zip(row, totals, strict=True)] for row in q]
        q = [[x / sum(row) / b for x in row] for row in q]
    return [[x * b for x in row] for row in q]


def crops(targets, predictions):
    """Mean over pairs of different crops and over rows of -sum_k q_k log softmax(logits)_k."""
    losses = []
    for i, q in enumerate(targets):
        for j, logits in enumerate(predictions):
            for q_row, row in zip(q, logits, strict=True):
                if i != j:
                    losses.append(sum(share * choice(row, k) for k, share in enumerate(q_row)))
    return average(losses)


def swapped_prediction(scores, assignments, temperature=0.1):
    return crops(assignments, [[[s / temperature for s in row] for row in x] for x in scores])


def dino(student, teacher, center, student_temperature=0.1, teacher_temperature=0.04):
    q = [
        [
            softmax([(t - c) / teacher_temperature for t, c in zip(row, center, strict=True)])
            for row in x
        ]
        for x in teacher
    ]
    return crops(q, [[[s / student_temperature for s in row] for row in x] for x in student])


def update_center(center, teacher, momentum=0.9):
    means = [average(c) for c in columns([row for x in teacher for row in x])]
    return [momentum * c + (1 - momentum) * m for c, m in zip(center, means, strict=True)]
