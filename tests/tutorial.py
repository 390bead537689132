"""The report's recipe written down plainly, as TensorFlow's Pix2Pix tutorial has it.

Nothing is shared with the kernel: it is what the kernel's losses and speed are compared with.
Source: https://www.tensorflow.org/tutorials/generative/pix2pix
"""

from __future__ import annotations

import tensorflow as tf

LAMBDA = 1000


def downsample(filters, normalise=True):
    block = tf.keras.Sequential()
    block.add(
        tf.keras.layers.Conv2D(
            filters,
            4,
            strides=2,
            padding="same",
            kernel_initializer=tf.random_normal_initializer(0.0, 0.02),
            use_bias=False,
        )
    )
    if normalise:
        block.add(tf.keras.layers.BatchNormalization())
    block.add(tf.keras.layers.LeakyReLU())
    return block


def upsample(filters, dropout):
    block = tf.keras.Sequential()
    block.add(
        tf.keras.layers.Conv2DTranspose(
            filters,
            4,
            strides=2,
            padding="same",
            kernel_initializer=tf.random_normal_initializer(0.0, 0.02),
            use_bias=False,
        )
    )
    block.add(tf.keras.layers.BatchNormalization())
    if dropout:
        block.add(tf.keras.layers.Dropout(dropout))
    block.add(tf.keras.layers.ReLU())
    return block


def generator(width=64, dropout=0.5):
    inputs = tf.keras.layers.Input(shape=[256, 256, 3])
    down = [downsample(width, normalise=False)]
    down += [downsample(width * factor) for factor in (2, 4, 8, 8, 8, 8, 8)]
    up = [upsample(width * 8, dropout) for _ in range(3)]
    up += [upsample(width * factor, 0) for factor in (8, 4, 2, 1)]
    x, skips = inputs, []
    for block in down:
        x = block(x)
        skips.append(x)
    for block, skip in zip(up, reversed(skips[:-1]), strict=True):
        x = tf.keras.layers.Concatenate()([block(x), skip])
    last = tf.keras.layers.Conv2DTranspose(
        3,
        4,
        strides=2,
        padding="same",
        kernel_initializer=tf.random_normal_initializer(0.0, 0.02),
        activation="tanh",
    )
    return tf.keras.Model(inputs=inputs, outputs=last(x))


def discriminator(width=64):
    init = tf.random_normal_initializer(0.0, 0.02)
    picture = tf.keras.layers.Input(shape=[256, 256, 3])
    target = tf.keras.layers.Input(shape=[256, 256, 3])
    x = tf.keras.layers.concatenate([picture, target])
    x = downsample(width, normalise=False)(x)
    x = downsample(width * 2)(x)
    x = downsample(width * 4)(x)
    x = tf.keras.layers.ZeroPadding2D()(x)
    x = tf.keras.layers.Conv2D(width * 8, 4, kernel_initializer=init, use_bias=False)(x)
    x = tf.keras.layers.BatchNormalization()(x)
    x = tf.keras.layers.LeakyReLU()(x)
    x = tf.keras.layers.ZeroPadding2D()(x)
    logits = tf.keras.layers.Conv2D(1, 4, strides=1, kernel_initializer=init)(x)
    return tf.keras.Model(inputs=[picture, target], outputs=logits)


class Tutorial:
    """Both networks and the tutorial's step, with the report's weights of the losses."""

    def __init__(self, width=64, dropout=0.5):
        self.generator = generator(width, dropout)
        self.discriminator = discriminator(width)
        self.generator_optimizer = tf.keras.optimizers.Adam(2e-4, beta_1=0.5)
        self.discriminator_optimizer = tf.keras.optimizers.Adam(2e-4, beta_1=0.5)
        self.loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)

    @tf.function
    def train_step(self, picture, target):
        with tf.GradientTape() as gen_tape, tf.GradientTape() as disc_tape:
            output = self.generator(picture, training=True)
            real = self.discriminator([picture, target], training=True)
            fake = self.discriminator([picture, output], training=True)
            gan = self.loss(tf.ones_like(fake), fake)
            l1 = tf.reduce_mean(tf.abs(target - output))
            gen = gan + LAMBDA * l1
            disc = self.loss(tf.ones_like(real), real)
            disc += LAMBDA * self.loss(tf.zeros_like(fake), fake)
        gradients = gen_tape.gradient(gen, self.generator.trainable_variables)
        self.generator_optimizer.apply_gradients(
            zip(gradients, self.generator.trainable_variables, strict=True)
        )
        gradients = disc_tape.gradient(disc, self.discriminator.trainable_variables)
        self.discriminator_optimizer.apply_gradients(
            zip(gradients, self.discriminator.trainable_variables, strict=True)
        )
        return gen, gan, l1, disc


def input_pipeline(pattern):
    """The tutorial's input: both files of a pair decoded anew each time, one picture a batch."""

    def load(path):
        other = tf.strings.regex_replace(path, "Masked_Train", "Unmasked_Train")
        pair = [tf.io.decode_jpeg(tf.io.read_file(p), channels=3) for p in (path, other)]
        pair = [tf.cast(picture, tf.float32) for picture in pair]
        nearest = tf.image.ResizeMethod.NEAREST_NEIGHBOR
        pair = tf.stack([tf.image.resize(picture, [286, 286], nearest) for picture in pair])
        pair = tf.image.random_crop(pair, [2, 256, 256, 3])
        if tf.random.uniform(()) > 0.5:
            pair = tf.image.flip_left_right(pair)
        return pair[0] / 127.5 - 1, pair[1] / 127.5 - 1

    photos = tf.data.Dataset.list_files(pattern).map(load, tf.data.AUTOTUNE)
    return photos.shuffle(400).batch(1)
