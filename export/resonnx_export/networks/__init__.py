"""The networks that can be exported: ResNet classifiers, and captioners with a recurrent network on a ResNet."""
