def features(replicas, folder):
    return {}
